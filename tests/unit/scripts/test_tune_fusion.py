"""Tuning of fusion from its command line, on models with random weights."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.data.manifest import read_manifest, write_manifest
from asr.data.tokenizer import BLANK
from asr.decoding.rescoring import Weights
from asr.parts import build
from asr.reporting.run import read_transcripts
from asr.runs.language_model import load_token_model
from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.composition.fusion_tuning import collect, command, without_models
from scripts.composition.trained import load_trained
from scripts.evaluate import main as evaluate
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
        for each in read_transcripts(run / "eval" / "train" / "recogs-beam12-density-ratio.txt")
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
    main([f"run={run}", *models, *SMALL, f"set={manifest}", *grid, "searches=0"])
    shown = capsys.readouterr().out
    record = json.loads((run / "eval" / "spoken" / "fusion-beam12-density-ratio.json").read_text())
    settings = {(each["external"], each["source"], each["label_bonus"]): each["wer"] for each in record["settings"]}
    assert len(settings) == 12
    assert len(set(settings.values())) > 2
    assert tuple(record["best"].values()) == (0.1, 0.05, 0.0), "with which the texts were made"
    assert settings[0.1, 0.05, 0.0] == min(settings.values()) == pytest.approx(record["comparison"]["wer"])
    assert f"| 0.1 | {settings[0.1, 0.0, 0.0]:.2%} | {settings[0.1, 0.05, 0.0]:.2%} |" in shown
    evaluate([f"run={run}", f"sets=[{manifest}]", "decode=beam", "decode.beam=12"])
    figures = json.loads((run / "eval" / "spoken" / "wer-beam12.json").read_text())
    assert settings[0.0, 0.0, 0.0] == pytest.approx(figures["wer"])
    assert record["searched"] == []


def test_searches_refine_what_lists_say(
    spoken_by_the_models: tuple[Path, Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts that one setting finds in the search, and that few lists hold: from beside it the search goes there."""
    run, external, source, manifest = spoken_by_the_models
    grid = ["external_weights=[0.3]", "source_weights=[0.05]", "label_bonuses=[0.0]"]
    models = [f"decode.fusion.external={external}", f"decode.fusion.source={source}"]
    main([f"run={run}", *models, *SMALL, f"set={manifest}", *grid, "searches=6"])
    shown = capsys.readouterr().out
    record = json.loads((run / "eval" / "spoken" / "fusion-beam12-density-ratio.json").read_text())
    searched = {(each["external"], each["source"], each["label_bonus"]): each["wer"] for each in record["searched"]}
    assert len(searched) == 6
    start = min(record["settings"], key=lambda each: each["wer"])
    assert next(iter(searched)) == (start["external"], start["source"], start["label_bonus"])
    best = tuple(record["best"].values())
    assert searched[best] == min(searched.values()) == pytest.approx(record["comparison"]["wer"])
    assert f"| {best[0]:g} | {best[1]:g} | {best[2]:g} | **{searched[best]:.2%}** |" in shown
    weights = (f"decode.fusion.{key}_weight={value}" for key, value in zip(("external", "source"), best, strict=False))
    tuned = [*models, *weights, f"decode.fusion.label_bonus={best[2]}"]
    evaluate([f"run={run}", f"sets=[{manifest}]", "decode=beam", "decode.beam=12", *tuned])
    figures = json.loads((run / "eval" / "spoken" / "wer-beam12-density-ratio.json").read_text())
    assert figures["wer"] == pytest.approx(searched[best])


def test_a_model_that_is_not_named_has_no_weight(random_run: Run, random_lm_run: Run) -> None:
    run, lm = random_run("run"), random_lm_run("lm")
    main([f"run={run}", f"decode.fusion.external={lm}", *SMALL, "external_weights=[0.5]", "label_bonuses=[0.1]"])
    record = json.loads((run / "eval" / "train" / "fusion-beam12-lm.json").read_text())
    found = [(each["external"], each["source"], each["label_bonus"]) for each in record["settings"]]
    assert found == [(0.0, 0.0, 0.0), (0.5, 0.0, 0.1)], "and no language model at all is always among them"


def test_the_command_that_is_printed_evaluates_as_was_tuned(
    random_run: Run, random_lm_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run, lm = random_run("my run"), random_lm_run("an lm")
    search = ["decode.beam=3", "decode.max_labels_per_frame=1.5", "decode.fusion.end_of_text=true"]
    fusion = [f"decode.fusion.external={lm}", "decode.fusion.external_weight=9", "++decode.fusion.label_bonus=9"]
    others = [f"run={run}", "checkpoint=avg:1", "unit_utterances=7", "text.case=lower", "text.replace=[[NO,YES]]"]
    main([*others, *search, *fusion, "set=train", "external_weights=[0.1]", "label_bonuses=[0.2]"])
    command_line = capsys.readouterr().out.splitlines()[-1]
    best = json.loads((run / "eval" / "train" / "fusion-beam3-lm.json").read_text())["best"]
    tuned = [f"decode.fusion.{key}_weight={best[key]}" for key in ("external", "source")]
    wanted = ["decode=beam", *others, *search, fusion[0], *tuned, f"decode.fusion.label_bonus={best['label_bonus']}"]
    assert shlex.split(command_line)[:2] == ["python", "scripts/evaluate.py"]
    assert compose("evaluate", shlex.split(command_line)[2:]) == compose("evaluate", wanted)


@pytest.mark.parametrize("search", [[], ["decode=beam"]])
def test_the_command_gives_weights_as_they_were_tried(search: list[str]) -> None:
    arguments = ["run=a", *search, "decode.fusion.external=lm", "decode.fusion.source=other"]
    setting = Weights(0.123456789, 0.7654321, -1.234567e-05)
    fusion = compose("evaluate", shlex.split(command(arguments, setting))[2:]).decode.fusion
    assert Weights(fusion.external_weight, fusion.source_weight, fusion.label_bonus) == setting


@pytest.mark.parametrize("end_of_text", [False, True])
def test_the_end_of_a_text_is_judged_where_that_is_wanted(
    random_run: Run, random_lm_run: Run, end_of_text: bool
) -> None:
    run, lm = random_run("run"), random_lm_run("lm")
    fusion = [f"decode.fusion.external={lm}", f"decode.fusion.end_of_text={end_of_text}"]
    config = compose("tune_fusion", [f"run={run}", *SMALL, "set=dev", *fusion])
    trained = load_trained(run, "best", threads=1)
    listed = collect(trained, config, build(config.decode), without_models(config), build(config.text))
    model = load_token_model(lm, torch.device("cpu"), trained.speech.tokenizer)
    for each in listed.values():
        tokens = list(each.hypotheses[0].tokens)
        log_probs_UV = model.log_probs(torch.tensor([tokens]))[0]
        judged = [*tokens, BLANK] if end_of_text else tokens
        expected = sum(float(log_probs_UV[place, token]) for place, token in enumerate(judged))
        assert float(each.external[0]) == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_tuned_is_refused(random_run: Run) -> None:
    run = random_run("run")
    with pytest.raises(UsageError, match="choose decode=beam"):
        main([f"run={run}", "decode=greedy"])
    with pytest.raises(UsageError, match="no language model: give the folder"):
        main([f"run={run}"])
