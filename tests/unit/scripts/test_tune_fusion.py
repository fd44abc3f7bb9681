"""Tuning of fusion from its command line, on models with random weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asr.data.manifest import read_manifest, write_manifest
from asr.reporting.run import read_transcripts
from scripts.evaluate import main as evaluate
from scripts.startup import UsageError
from scripts.tune_fusion import main

Run = Callable[..., Path]
SMALL = ("decode.beam=12", "decode.n_best=12", "set=train")


@pytest.fixture
def spoken_by_the_models(
    random_run: Run, random_lm_run: Run, tiny_corpus: Path, tmp_path: Path
) -> tuple[Path, Path, Path, Path]:
    """A recogniser, an external and a source model, and a manifest whose texts are what they find together."""
    run, external, source = random_run("run"), random_lm_run("external"), random_lm_run("source", "seed=3")
    models = [f"decode.fusion.external={external}", f"decode.fusion.source={source}"]
    weights = ["decode.fusion.external_weight=0.1", "decode.fusion.source_weight=0.05"]
    evaluate([f"run={run}", "sets=[train]", "decode=beam", "decode.beam=12", *models, *weights])
    found = {
        each.utterance_id: " ".join(each.hypothesis)
        for each in read_transcripts(run / "eval" / "train" / "recogs-beam12-lm.txt")
    }
    spoken = [replace(each, text=found[each.id]) for each in read_manifest(tiny_corpus / "train.jsonl")]
    write_manifest(tmp_path / "spoken.jsonl", [each for each in spoken if each.text])
    return run, external, source, tmp_path / "spoken.jsonl"


def test_the_grid_holds_what_searches_find(
    spoken_by_the_models: tuple[Path, Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without language models the rate is that of the beam search itself; the best setting is what the table says."""
    run, external, source, manifest = spoken_by_the_models
    grid = ["external_weights=[0.0,0.1,3.0]", "source_weights=[0.0,0.05]", "label_bonuses=[0.0,2.0]"]
    models = [f"decode.fusion.external={external}", f"decode.fusion.source={source}"]
    main([f"run={run}", *models, *SMALL, f"set={manifest}", *grid])
    shown = capsys.readouterr().out
    record = json.loads((run / "eval" / "spoken" / "fusion-beam12-lm.json").read_text())
    settings = {(each["external"], each["source"], each["label_bonus"]): each["wer"] for each in record["settings"]}
    assert len(settings) == 12
    assert len(set(settings.values())) > 2
    assert tuple(record["best"].values()) == (0.1, 0.05, 0.0), "with which the texts were made"
    assert settings[0.1, 0.05, 0.0] == min(settings.values()) == pytest.approx(record["comparison"]["wer"])
    assert f"| 0.1 | {settings[0.1, 0.0, 0.0]:.2%} | {settings[0.1, 0.05, 0.0]:.2%} |" in shown
    assert " ".join([*models, "decode.fusion.external_weight=0.1 decode.fusion.source_weight=0.05"]) in shown
    evaluate([f"run={run}", f"sets=[{manifest}]", "decode=beam", "decode.beam=12"])
    figures = json.loads((run / "eval" / "spoken" / "wer-beam12.json").read_text())
    assert settings[0.0, 0.0, 0.0] == pytest.approx(figures["wer"])


def test_a_model_that_is_not_named_has_no_weight(random_run: Run, random_lm_run: Run) -> None:
    run, lm = random_run("run"), random_lm_run("lm")
    main([f"run={run}", f"decode.fusion.external={lm}", *SMALL, "external_weights=[0.5]", "label_bonuses=[0.1]"])
    record = json.loads((run / "eval" / "train" / "fusion-beam12-lm.json").read_text())
    found = [(each["external"], each["source"], each["label_bonus"]) for each in record["settings"]]
    assert found == [(0.0, 0.0, 0.0), (0.5, 0.0, 0.1)], "and no language model at all is always among them"


def test_what_cannot_be_tuned_is_refused(random_run: Run) -> None:
    run = random_run("run")
    with pytest.raises(UsageError, match="choose decode=beam"):
        main([f"run={run}", "decode=greedy"])
    with pytest.raises(UsageError, match="no language model: give the folder"):
        main([f"run={run}"])
