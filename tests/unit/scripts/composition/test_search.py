"""Beam search and language models from the command line, on models with random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from asr.decoding.beam import BeamSearch
from asr.models.token_lm import TokenLanguageModel
from asr.parts import build
from asr.runs.metrics import read_rows
from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.compose import compose
from scripts.composition.search import language_model_fingerprints, with_language_models
from scripts.composition.trained import load_trained
from scripts.evaluate import main as evaluate
from scripts.transcribe import main as transcribe

Run = Callable[..., Path]
BEAM = ("decode=beam", "decode.beam=3")


def recogs(run: Path, decode: str, name: str = "dev") -> str:
    return (run / "eval" / name / f"recogs-{decode}.txt").read_text()


def test_what_is_recognised_does_not_depend_on_the_batch(random_run: Run) -> None:
    run = random_run("run")
    texts = []
    for size in (1, 7, 16):
        evaluate([f"run={run}", "sets=[train]", f"unit_utterances={size}", *BEAM])
        texts.append(recogs(run, "beam3", "train"))
    assert texts[0] == texts[1] == texts[2]
    assert len({line.partition("=")[2] for line in texts[0].splitlines() if "\thyp=" in line}) > 10


def test_language_models_take_part_and_results_lie_beside_the_others(random_run: Run, random_lm_run: Run) -> None:
    run, external, source = random_run("run"), random_lm_run("external"), random_lm_run("source", "seed=2")
    evaluate([f"run={run}", "sets=[dev]", *BEAM])
    ratio = [
        f"decode.fusion.external={external}",
        f"decode.fusion.source={source}",
        "decode.fusion.external_weight=1.5",
    ]
    evaluate([f"run={run}", "sets=[dev]", *BEAM, *ratio])
    assert recogs(run, "beam3") != recogs(run, "beam3-density-ratio")
    figures = json.loads((run / "eval" / "dev" / "wer-beam3-density-ratio.json").read_text())
    assert figures["decode"]["fusion"]["external_weight"] == 1.5


def test_audio_files_are_transcribed(
    random_run: Run, random_lm_run: Run, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, lm = random_run("run"), random_lm_run("lm")
    files = [str(tiny_corpus / f"dev-{index}.wav") for index in range(3)]
    transcribe([f"run={run}", *BEAM, *files])
    plain = capsys.readouterr().out
    transcribe([f"run={run}", *BEAM, f"decode.fusion.external={lm}", "decode.fusion.external_weight=2", *files])
    assert sorted(line.split("\t")[0] for line in plain.splitlines()) == files
    assert capsys.readouterr().out != plain


def test_evaluations_of_a_run_search_with_it(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World,
    random_lm_run: Run,
) -> None:  # fmt: skip
    lm = random_lm_run("lm")
    overrides = [
        *BEAM,
        f"decode.fusion.external={lm}",
        "trainer.max_steps=2",
        "trainer.evaluate_every=2",
        "backend=single",
    ]
    trainer = make_trainer(small_config(*overrides), tmp_path / "run", alone)
    trainer.fit(None)
    trainer.parts.recorder.close()
    rows = read_rows(tmp_path / "run" / "metrics" / "0.jsonl")
    assert any("eval/dev/wer" in row for row in rows)


def test_models_are_loaded_in_the_recognisers_precision(random_run: Run, random_lm_run: Run) -> None:
    run, lm = random_run("run", "trainer.precision=fp64"), random_lm_run("lm")
    trained = load_trained(run, "best", threads=1)
    decode = build(compose("evaluate", [f"run={run}", *BEAM, f"decode.fusion.external={lm}"]).decode)
    fused = with_language_models(decode, trained.model, trained.speech.tokenizer)
    assert isinstance(fused, BeamSearch)
    ((weight, model),) = fused.terms.models
    assert isinstance(model, TokenLanguageModel)
    assert (weight, next(model.parameters()).dtype) == (0.3, torch.float64)
    assert (
        len(fused(trained.model, torch.zeros(1, 4, trained.model.encoder.dimension).double(), torch.tensor([4]))) == 1
    )


def test_language_models_of_the_same_name_differ_in_fingerprint_by_weights(random_run: Run, random_lm_run: Run) -> None:
    trained = load_trained(random_run("run"), "best", threads=1)
    external, source, other = (random_lm_run(name, f"seed={seed}") for seed, name in enumerate(("lm", "source", "x")))

    def fingerprints(*overrides: str) -> list[int]:
        both = [f"decode.fusion.external={external}", f"decode.fusion.source={source}"]
        named = build(compose("evaluate", ["run=any", *BEAM, *both, *overrides]).decode)
        return language_model_fingerprints(with_language_models(named, trained.model, trained.speech.tokenizer))

    first = fingerprints()
    assert first == fingerprints("decode.fusion.external_weight=0.5")
    assert fingerprints("decode.fusion.external=null") == first[1:]
    assert fingerprints("decode.fusion.external=null", "decode.fusion.source=null") == []
    shutil.rmtree(external / "checkpoints")
    shutil.copytree(other / "checkpoints", external / "checkpoints")
    assert fingerprints()[0] != first[0]
    assert fingerprints()[1] == first[1]
    assert language_model_fingerprints(build(compose("evaluate", ["run=any"]).decode)) == []


def test_what_names_no_language_model_is_refused(random_run: Run, random_lm_run: Run) -> None:
    run = random_run("run")
    other = random_lm_run("other", "tokenizer.alphabet='abcdefghijklmnopqrstuvwxyz '")
    for folder, message in ((run, "train_lm.py"), (other, "other tokens"), (run / "none", "no checkpoint there")):
        with pytest.raises(UsageError, match=rf"^decode.fusion.source={folder}: .*{message}"):
            evaluate([f"run={run}", "sets=[dev]", *BEAM, f"decode.fusion.source={folder}"])
    assert not (run / "eval").exists()


def test_ctc_models_are_refused(random_run: Run) -> None:
    run = random_run("run", "model=ctc_conformer_tiny", "model.encoder.layers=1")
    with pytest.raises(ValueError, match="choose decode=greedy"):
        evaluate([f"run={run}", "sets=[dev]", *BEAM])
