"""The bench of searches: what it makes of texts and times, and that torchaudio's search reads the model that ours reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch

from asr.data.pipeline import unit_loader
from asr.data.tokenizer import BLANK
from asr.decoding.search_networks import FusedTokenModel
from asr.models.transducer import Transducer
from distributed.errors import UsageError
from scripts.bench.decode import Found, figures, main, rows_of, spread
from scripts.bench.searches import TorchaudioTransducer, methods, with_language_model
from scripts.composition.evaluation import named_set
from scripts.composition.trained import load_trained
from scripts.evaluate import main as evaluate

Run = Callable[..., Path]


def test_searches_are_compared_with_the_better_of_torchaudios_two() -> None:
    """Four words. torchaudio's own ranking is the slower one and makes more errors."""
    references = {"a": "one two", "b": "three four"}
    found = {
        "greedy": Found({"a": "one", "b": "four four"}, [0.25, 0.25]),
        "beam8": Found({"a": "one two", "b": "three four"}, [0.5, 0.5]),
        "beam8, one at a time": Found({"a": "one two", "b": "three four"}, [2.0, 2.0]),
        "torchaudio": Found({"a": "one", "b": "four four"}, [5.0, 5.0]),
        "torchaudio, by score": Found({"a": "one two", "b": "four four"}, [4.0, 4.0]),
    }
    rows = {row["method"]: row for row in rows_of(references, found)}
    assert [row["errors"] for row in rows.values()] == [2, 0, 0, 2, 1]
    assert [row["wer"] for row in rows.values()] == [0.5, 0.0, 0.0, 0.5, 0.25]
    assert [row["wer_minus_torchaudio"] for row in rows.values()] == [0.25, -0.25, -0.25, 0.25, 0.0]
    assert rows["beam8"]["wer_minus_torchaudio_interval"] == (-0.5, 0.0), "one of two utterances is better"
    assert [row["speed_vs_torchaudio"] for row in rows.values()] == [16.0, 8.0, 2.0, 0.8, 1.0]
    assert [row["utterances_per_second"] for row in rows.values()] == [4.0, 2.0, 0.5, 0.2, 0.25]
    assert [row["same_as_torchaudio"] for row in rows.values()] == [1.0, 0.0, 0.0, 1.0, 0.5]
    told = figures(list(rows.values()))
    assert (told["beam_speed_ratio_vs_torchaudio"], told["beam_wer_minus_torchaudio"]) == (8.0, -0.25)
    assert told["beam_speed_ratio_vs_torchaudio_one_at_a_time"] == 2.0
    assert (told["wer/beam8"], told["wer/torchaudio, by score"]) == (0.0, 0.25)


def test_units_are_taken_at_even_distances() -> None:
    units = list(range(10))
    assert spread(units, 2) == [2, 7]
    assert spread(units, 3) == [1, 5, 8]
    assert spread(units, 10) == spread(units, 99) == units


@torch.no_grad()
def test_torchaudio_reads_the_same_model(random_run: Run) -> None:
    """The distribution at every frame after every label, read its way and ours: its blank is the last class."""
    trained = load_trained(random_run("run"), "best", threads=1)
    model = cast(Transducer, trained.model)
    features_1TF, lengths_1 = torch.randn(1, 12, trained.speech.sizes["feature_dimension"]), torch.tensor([12])
    labels = [3, 1, 4]
    states_1SD, _ = model.encode(features_1TF, lengths_1)
    encoder_1SJ = model.joiner.project_encoder(states_1SD)
    predictor_1UJ = model.joiner.project_predictor(model.predictor(torch.tensor([labels])))
    adapter = TorchaudioTransducer(model)
    theirs_1SJ, state = adapter.transcribe(features_1TF, lengths_1)[0], None
    blank = model.vocabulary_size - 1
    for position, token in enumerate([blank, *(label - 1 for label in labels)]):
        read_11J, _, state = adapter.predict(torch.tensor([[token]]), torch.tensor([1]), state)
        for frame in range(encoder_1SJ.shape[1]):
            ours_V = model.joiner.logits(encoder_1SJ[0, frame], predictor_1UJ[0, position])
            joint, _, _ = adapter.join(theirs_1SJ[:, frame : frame + 1], torch.tensor([1]), read_11J, torch.tensor([1]))
            torch.testing.assert_close(joint[0, 0, 0], torch.cat([ours_V[1:], ours_V[:1]]))


@torch.no_grad()
def test_both_find_the_same_where_the_beam_holds_what_matters(random_run: Run) -> None:
    """A model that rarely says anything: few alignments have much probability."""
    trained = load_trained(random_run("run"), "best", threads=1)
    model = cast(Transducer, trained.model)
    model.joiner.output.bias[BLANK] += 4
    evaluated = named_set(trained, "dev", 6)
    (batch,) = unit_loader(evaluated.dataset, evaluated.units, num_workers=0, prefetch=1)
    found = {name: recognise(batch) for name, recognise in methods(model, beam=4).items()}
    assert found["beam4"] == found["beam4, one at a time"] == found["torchaudio, by score"]
    assert sum(map(len, found["beam4"])) >= 3


def test_any_trained_run_is_measured(random_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Error rates of our searches are those of scripts/evaluate.py; no more utterances are taken than asked for."""
    run, path = random_run("run"), tmp_path / "decode.json"
    command = ["--run", str(run), "--set", "dev", "--beam", "2", "--json", str(path)]
    main([*command, "--utterances", "6"])
    shown, saved = capsys.readouterr().out, json.loads(path.read_text())
    for search in ([], ["decode=beam", "decode.beam=2"]):
        evaluate([f"run={run}", "sets=[dev]", *search])
    for name in ("greedy", "beam2"):
        evaluated = json.loads((run / "eval" / "dev" / f"wer-{name}.json").read_text())
        assert saved["figures"][f"wer/{name}"] == evaluated["wer"]
        assert saved["weights_sha256"] == evaluated["weights_sha256"]
    rows = saved["rows"]
    assert [row["utterances"] for row in rows] == [6] * 5
    assert all(f"| {row['method']} | " in shown for row in rows)
    assert rows[1]["wer"] == rows[2]["wer"], "one at a time finds what all together do"
    main([*command, "--utterances", "5", "--batch", "2"])
    assert [row["utterances"] for row in json.loads(path.read_text())["rows"]] == [4] * 5, "whole units"


def test_a_language_model_is_read_in_both_ways(
    random_run: Run, random_lm_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, lm, path = random_run("run"), random_lm_run("lm"), tmp_path / "decode.json"
    counted, step = list[int](), FusedTokenModel.step
    monkeypatch.setattr(FusedTokenModel, "step", lambda *given: (counted.append(1), step(*given))[1])
    main(["--run", str(run), "--set", "dev", "--beam", "2", "--utterances", "4", "--lm", str(lm), "--json", str(path)])
    rows = {row["method"]: row for row in json.loads(path.read_text())["rows"]}
    ways = ["beam2-lm", "beam2-lm, one at a time", "beam2-lm, by modules", "beam2-lm, by modules, one at a time"]
    assert list(rows)[5:] == ways
    assert len({rows[name]["cer"] for name in ways}) == 1

    trained = load_trained(run, "best", threads=1)
    evaluated = named_set(trained, "dev", 6)
    (batch,) = unit_loader(evaluated.dataset, evaluated.units, num_workers=0, prefetch=1)
    steps = {}
    for name, recognise in with_language_model(
        cast(Transducer, trained.model), trained.speech.tokenizer, 2, lm
    ).items():
        counted.clear()
        with torch.no_grad():
            recognise(batch)
        steps[name] = len(counted)
    assert [steps[name] > 0 for name in ways] == [True, True, False, False]


def test_what_torchaudio_cannot_search_is_refused(random_run: Run) -> None:
    run = random_run("run", "model=ctc_conformer_tiny", "model.encoder.layers=1")
    with pytest.raises(UsageError, match="its model is no transducer"):
        main(["--run", str(run)])
