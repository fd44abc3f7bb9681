"""Large batches on spoken digits: the networks, real learners beside simulated ones, choices and tables, on random inputs."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distributed.errors import UsageError
from scripts.bench import large_batch
from scripts.bench.kept import Kept
from scripts.bench.large_batch import exact_test, main, separating_rate
from scripts.bench.large_batch_learner import train_real
from scripts.bench.large_batch_networks import CELLS, STACKED, STRETCHES, DeepLstm, LstmLayer
from scripts.bench.large_batch_training import COMPLETE, LSTM, REAL, SSGD, WAYS, Trainings
from scripts.bench.spoken_digits import MELS, Digits


@pytest.fixture
def recordings() -> Digits:
    """Ten kinds of recordings, each around a pattern of its own."""
    torch.manual_seed(3)
    patterns = torch.randn(10, MELS * STRETCHES)
    labels = torch.arange(10).repeat(200)
    inputs = patterns[labels] + torch.randn(2000, MELS * STRETCHES)
    return Digits((inputs, labels), (inputs, labels))


def test_a_layer_is_torch_s_lstm() -> None:
    """But for the order of the gates: input, forget, output, candidate here."""
    torch.manual_seed(1)
    layer, other = LstmLayer(STACKED * MELS), nn.LSTM(STACKED * MELS, CELLS, batch_first=True)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    rows = torch.cat([torch.arange(CELLS) + CELLS * gate for gate in (0, 1, 3, 2)])
    with torch.no_grad():
        other.weight_ih_l0.copy_(layer.weight_ih[rows])
        other.weight_hh_l0.copy_(layer.weight_hh[rows])
        other.bias_ih_l0.copy_(layer.bias[rows])
        other.bias_hh_l0.zero_()
    inputs = torch.randn(3, 5, STACKED * MELS)
    torch.testing.assert_close(layer(inputs), other(inputs)[0])


def test_an_lstm_reads_stretches_in_their_order_three_at_once() -> None:
    seen: list[torch.Tensor] = []
    model = DeepLstm()
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    stretches = torch.arange(STRETCHES).expand(2, MELS, STRETCHES)
    model(stretches.reshape(2, -1).float())
    assert seen[0].shape == (2, STRETCHES // STACKED, STACKED * MELS)
    assert seen[0][0, :, ::MELS].flatten().tolist() == list(range(STRETCHES))


@pytest.mark.parametrize("way", REAL)
def test_real_learners_train_as_simulated_ones(recordings: Digits, run_learners: Any, way: str) -> None:
    case = replace(LSTM, learners=4, batch=16, steps=6)
    trainings = Trainings(recordings, None, [case])
    simulated = trainings.weights(case, way, 0.5, seed=2)
    moved = (simulated - trainings.weights(replace(case, steps=0), way, 0.5, seed=2)).norm()
    rates = [case.rate_at(step, 0.5) for step in range(case.steps)]
    batches, begun = list(case.batches(recordings, 2)), case.begun(2)
    for weights in run_learners(4, lambda world: train_real(world, deepcopy(begun), *REAL[way], rates, batches)):
        assert (weights - simulated).norm() < 1e-4 * moved


def test_the_schedule_warms_up_holds_and_falls_to_nothing() -> None:
    rates = [LSTM.rate_at(step, 8.0) for step in range(LSTM.steps)]
    assert rates[0] == pytest.approx(0.4)
    assert rates[19:61] == [8.0] * 42
    assert rates[-1] == pytest.approx(8 / 60)
    assert rates[60:] == sorted(rates[60:], reverse=True)


def test_the_exact_test_is_fisher_s() -> None:
    assert exact_test(9, 0, 9) == pytest.approx(1 / 48620)
    assert exact_test(3, 1, 4) == pytest.approx(17 / 70), "of the lady tasting tea"
    assert exact_test(0, 0, 5) == 1


def test_the_rate_is_where_gossip_trains_and_the_mean_does_not() -> None:
    case = replace(LSTM, rates=(1.0, 2.0, 3.0))
    errors = {
        (SSGD, 1.0): [0.1, 0.1], (COMPLETE, 1.0): [0.1, 0.1], (SSGD, 2.0): [0.1, 0.9], (COMPLETE, 2.0): [0.1, 0.1],
        (SSGD, 3.0): [0.9, 0.9], (COMPLETE, 3.0): [0.9, 0.1],
    }  # fmt: skip
    assert separating_rate(case, errors) == 2


def test_what_cannot_be_compared_is_refused(recordings: Digits, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^2000 recordings and batches of 1024 for 3 learners: .*equal shares of both"
    ):
        Trainings(recordings, None, [replace(LSTM, learners=3)])
    with pytest.raises(
        UsageError, match=r"^--seeds and --choose both have \[2, 3\]: the table is of seeds on which nothing"
    ):
        main(["--data", "none", "--seeds", "2", "3", "4", "--choose", "1", "2", "3"])
    Trainings(recordings, tmp_path / "kept.jsonl", [LSTM])
    with pytest.raises(
        UsageError, match=r"holds results of .*\[16, 1024, 120\].*, not of .*\[16, 1024, 8\].*; choose another file"
    ):
        Trainings(recordings, tmp_path / "kept.jsonl", [replace(LSTM, steps=8)])


def test_results_are_found_once_and_a_line_that_was_cut_is_found_again(tmp_path: Path) -> None:
    file, asked = tmp_path / "kept.jsonl", []

    def find(value: float) -> dict[str, float]:
        asked.append(value)
        return {"error": value}

    first = Kept(file, {"a": 1})
    assert [first.of("x", lambda: find(1.0)), first.of("x", lambda: find(2.0))] == [{"error": 1.0}] * 2
    with file.open("a") as lines:
        lines.write('{"key": "y", "err')
    again = Kept(file, {"a": 1})
    assert again.of("x", lambda: find(3.0)) == {"error": 1.0}
    assert again.of("y", lambda: find(4.0)) == {"error": 4.0}
    assert asked == [1.0, 4.0]
    assert Kept(file, {"a": 1}).of("y", lambda: find(5.0)) == {"error": 4.0}


def test_every_way_is_trained_on_fresh_seeds_and_kept(
    recordings: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_batch, "read_digits", lambda root, cache, means: recordings)
    file, kept = tmp_path / "figures.json", tmp_path / "kept.jsonl"
    command = ["--data", "none", "--quick", "--choose", "0", "--kept", str(kept), "--json", str(file)]
    main([*command, "--figure", str(tmp_path / "curves.svg")])
    saved = json.loads(file.read_text())
    best = [f"{way}, its best rate" for way in (SSGD, COMPLETE)]
    assert set(saved["figures"]) == {f"trained/perceptron/{way}" for way in [*WAYS, *best]}
    assert saved["curves"].keys() == WAYS.keys()
    assert saved["curves"][COMPLETE][1]["sigma_w2"] > saved["curves"][SSGD][1]["sigma_w2"] == 0
    assert (tmp_path / "curves.svg").stat().st_size
    before = kept.read_text().count("\n")
    main(command)
    assert kept.read_text().count("\n") == before, "nothing is made again"
    assert json.loads(file.read_text())["rows"] == saved["rows"]
