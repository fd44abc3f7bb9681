"""Evaluation from its command line, on models with random weights: batches, normalisation, comparison with another run."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from asr.runs.model_folder import load_model, save_model
from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.composition.initial_weights import find_initial_weights
from scripts.compress import main as compress
from scripts.evaluate import main
from tests.unit.compression.test_every_pass import draw_masks

CONFORMER = (
    "model=conformer_tiny", "model.encoder.layers=2", "model.encoder.dimension=32", "model.encoder.heads=2",
    "model.joiner.dimension=32",
)  # fmt: skip


def results(folder: Path) -> dict[str, str]:
    """Every file of an evaluation by its path below eval; the one figure of time that they hold, of its own, is left out."""
    texts = {str(each.relative_to(folder)): each.read_text() for each in sorted((folder / "eval").rglob("*.*"))}
    found = {name: re.subn(r'"real_time_factor": [0-9.e+-]+,?', "", text) for name, text in texts.items()}
    assert sum(number for _, number in found.values()) == 1
    return {name: text for name, (text, _) in found.items()}


@pytest.mark.parametrize("model", [(), CONFORMER], ids=["lstm", "conformer"])
def test_what_is_recognised_does_not_depend_on_the_batch(
    random_run: Callable[..., Path], model: tuple[str, ...]
) -> None:
    run = random_run("run", *model)
    files = []
    for size in (1, 7, 16):
        main([f"run={run}", "sets=[train]", f"unit_utterances={size}", "decode.max_symbols=2"])
        files.append(results(run))
    assert files[0] == files[1] == files[2], "every file, byte for byte"
    hypotheses = {line for line in files[0]["eval/train/recogs-greedy.txt"].splitlines() if "\thyp=" in line}
    assert len({line.partition("=")[2] for line in hypotheses}) > 10, "the model says different things"


def test_several_sets_make_a_table(random_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = random_run("run")
    main([f"run={run}", "sets=[dev,train]"])
    table = (run / "eval" / "summary-greedy.txt").read_text()
    assert capsys.readouterr().out.endswith(table)
    assert [line.split()[0] for line in table.splitlines()] == ["set", "dev", "train"]
    main([f"run={run}", "sets=[dev]"])
    assert (run / "eval" / "summary-greedy.txt").read_text().count("\n") == 2
    assert "utterances" not in capsys.readouterr().out, "one set has its line already"


def test_texts_are_normalised_on_both_sides_and_that_is_recorded(random_run: Callable[..., Path]) -> None:
    run = random_run("run")
    main([f"run={run}", "sets=[dev]", "text.case=upper", "text.replace=[[GO,HALT],[STOP,HALT]]", "text.remove=OE"])
    recogs = (run / "eval" / "dev" / "recogs-greedy.txt").read_text()
    words = {word for line in recogs.splitlines() if "\tref=" in line for word in line.split("'")[1::2]}
    assert words <= {"N", "YS", "HALT"}
    assert not any(letter in line.partition("=")[2] for line in recogs.splitlines() for letter in "OEoe")
    figures = json.loads((run / "eval" / "dev" / "wer-greedy.json").read_text())
    assert {**figures["text"], "_target_": None} == {
        "_target_": None, "case": "upper", "replace": [["GO", "HALT"], ["STOP", "HALT"]], "remove": "OE",
    }  # fmt: skip
    assert figures["decode"]["max_symbols"] == 10


def test_two_runs_are_compared(random_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, other = random_run("run"), random_run("other", "seed=5")
    main([f"run={other}", "sets=[dev,train]"])
    capsys.readouterr()
    main([f"run={run}", f"against={other}", "sets=[dev,train]"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "against other" in line]
    assert [line.split()[0] for line in lines] == ["[dev]", "[train]"]
    figures = json.loads((run / "eval" / "train" / "against-other-greedy.json").read_text())
    wers = [json.loads((each / "eval" / "train" / "wer-greedy.json").read_text())["wer"] for each in (run, other)]
    assert [figures["wer"], figures["other_wer"]] == wers
    assert figures["difference"] == pytest.approx(wers[0] - wers[1])
    assert figures["interval"][0] <= figures["difference"] <= figures["interval"][1]
    assert figures["better"] + figures["worse"] + figures["equal"] == figures["utterances"] == 40
    assert figures["other_checkpoint"] == "step-00000001"


def test_a_run_against_its_own_earlier_results(random_run: Callable[..., Path]) -> None:
    run = random_run("run")
    main([f"run={run}", "sets=[dev]"])
    main([f"run={run}", "sets=[dev]", f"against={run}"])
    figures = json.loads((run / "eval" / "dev" / "against-run-greedy.json").read_text())
    assert (figures["difference"], figures["interval"]) == (0.0, [0.0, 0.0])


def test_a_comparison_needs_the_same_evaluation(random_run: Callable[..., Path]) -> None:
    run, other = random_run("run"), random_run("other", "seed=5")
    arguments = [f"run={run}", f"against={other}", "sets=[dev]", "decode.max_symbols=3", "checkpoint=last"]
    command = f"run this first: python scripts/evaluate.py run={other} 'sets=\\[dev\\]' decode.max_symbols=3$"
    with pytest.raises(UsageError, match=f"'dev' was not evaluated there with greedy search; {command}"):
        main(arguments)
    assert not (run / "eval").exists(), "refused before the longer work"
    main([f"run={other}", "sets=[dev]"])
    with pytest.raises(UsageError, match=rf"another decode= \(max_symbols=10, here max_symbols=3\); {command}"):
        main(arguments)
    with pytest.raises(UsageError, match=r"another text= \(case=keep .*here case=lower"):
        main([f"run={run}", f"against={other}", "sets=[dev]", "text.case=lower"])
    figures = other / "eval" / "dev" / "wer-greedy.json"
    figures.write_text(json.dumps({"wer": 0.5}))  # as written before searches were recorded
    with pytest.raises(UsageError, match=r"another decode= \(unknown, here"):
        main([f"run={run}", f"against={other}", "sets=[dev]"])
    with pytest.raises(UsageError, match="no such folder"):
        main([f"run={run}", f"against={other}x", "sets=[dev]"])


def test_a_comparison_needs_the_same_language_models(
    random_run: Callable[..., Path], random_lm_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other, lm, anew = (
        random_run("run"),
        random_run("other", "seed=5"),
        random_lm_run("lm"),
        random_lm_run("anew", "seed=2"),
    )
    search = ["sets=[dev]", "decode=beam", "decode.beam=2"]
    monkeypatch.chdir(lm.parent)
    main([f"run={other}", *search, f"decode.fusion.external={lm}"])
    record = json.loads((other / "eval" / "dev" / "wer-beam2-lm.json").read_text())
    manifests = [json.loads((each / "checkpoints/step-00000001/manifest.json").read_text()) for each in (other, lm)]
    digests = [each["files"]["model.safetensors"] for each in manifests]
    assert [record["weights_sha256"], record["language_models"]["external"]["weights_sha256"]] == [
        [each] for each in digests
    ]
    assert record["decode"]["fusion"]["external"] == str(lm.resolve())
    arguments = [f"run={run}", f"against={other}", *search, "decode.fusion.external=./lm"]
    main(arguments)  # it is the same, however it is written
    (lm / "checkpoints").rename(lm / "earlier")
    (anew / "checkpoints").rename(lm / "checkpoints")
    shown = rf"\(external=\(checkpoint=step-00000001 weights_sha256=\['{digests[1]}'\]\), here external=\("
    command = f"run this first: python scripts/evaluate.py run={other} .*decode.fusion.external=./lm$"
    with pytest.raises(UsageError, match=rf"'dev' was evaluated there with other language models {shown}.*{command}"):
        main(arguments)
    main([f"run={other}", *search, "decode.fusion.external=lm"])  # as told
    main(arguments)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dev-0:", "dev-x:", r"6 utterances here, 6 there, 'dev-0' only here; evaluate both runs on one manifest"),
        ("ref=['", "ref=['oh", r"the reference of 'dev-0' is '\w.*' here and 'oh\w.*' there"),
    ],
)
def test_a_comparison_needs_the_same_texts(random_run: Callable[..., Path], old: str, new: str, message: str) -> None:
    run, other = random_run("run"), random_run("other")
    main([f"run={other}", "sets=[dev]"])
    recogs = other / "eval" / "dev" / "recogs-greedy.txt"
    recogs.write_text(recogs.read_text().replace(old, new))
    with pytest.raises(UsageError, match=message):
        main([f"run={run}", f"against={other}", "sets=[dev]"])
    assert (run / "eval" / "dev" / "wer-greedy.json").is_file(), "its own figures are there"


def test_a_model_folder_that_hears_other_features_is_refused(random_run: Callable[..., Path]) -> None:
    """It would be decoded from the run's features, without a word."""
    run, other = random_run("run"), random_run("other", "features.normalise=none")
    (folder,) = (other / "checkpoints").glob("step-*")
    with pytest.raises(
        UsageError, match=r"^weights=.*: that model hears other features than the run: normalise differ"
    ):
        main([f"run={run}", f"weights={folder}", "sets=[dev]"])


@pytest.mark.parametrize("inside", [True, False])
def test_a_run_from_elsewhere_has_nothing_written_outside(
    random_run: Callable[..., Path], tiny_corpus: Path, tmp_path: Path, inside: bool
) -> None:
    run = random_run("run")
    cache = (run if inside else tmp_path) / "cache"
    chosen = ["data=nemo", f"data.root={tiny_corpus}", "data.train_ds.manifest_filepath=train.jsonl"]
    data = compose("train", [*chosen, "data.sample_rate=8000", "data.case=keep", f"data.cache={cache}"]).data
    config = OmegaConf.load(run / "config.yaml")
    config.data = data
    OmegaConf.save(config, run / "config.yaml")
    if not inside:
        with pytest.raises(UsageError, match=r"data\.cache=.*: the run's configuration would have files written there"):
            main([f"run={run}", "sets=[train]"])
    else:
        main([f"run={run}", "sets=[train]"])
    assert cache.exists() == inside


def test_weights_that_are_no_numbers_are_named(
    random_run: Callable[..., Path], small_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    run = random_run("run")
    (folder,) = (run / "checkpoints").glob("step-*")
    loaded = load_model(folder)
    bad = sorted(loaded.model.state_dict())[:2]
    with torch.no_grad():
        loaded.model.state_dict()[bad[0]].view(-1)[0] = torch.nan
        loaded.model.state_dict()[bad[1]].view(-1)[-1] = -torch.inf
    save_model(loaded, tmp_path / "model")
    with pytest.raises(UsageError, match=rf"weights=.*: NaN or infinite weights in {bad[0]}, {bad[1]}, of \d+ tensors"):
        main([f"run={run}", "sets=[dev]", f"weights={tmp_path / 'model'}"])
    with pytest.raises(UsageError, match=rf"init_from=.*: NaN or infinite weights in {bad[0]}, {bad[1]}"):
        find_initial_weights(small_config(f"init_from={tmp_path / 'model'}"), loaded.tokenizer, [])


def test_a_masked_run_that_is_used_whole_is_warned_of(
    random_run: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    run = random_run("run")
    main([f"run={run}", "sets=[dev]"])
    assert "masks" not in caplog.text
    draw_masks(run / "checkpoints" / "step-00000001")
    main([f"run={run}", "sets=[dev]"])
    (line,) = [each for each in caplog.messages if "masks" in each]
    assert line.startswith(f"{run}: step-00000001 is the whole model, which its masks (hooks=[structured_pruning])")
    assert "\n" not in line
    caplog.clear()
    compress([f"run={run}", "pass=prune"])
    main([f"run={run}", f"weights={run / 'export' / 'prune'}", "sets=[dev]"])
    assert "masks" not in caplog.text
