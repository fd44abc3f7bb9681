"""From training to a model folder and on: evaluate, begin anew from it, pass over it, evaluate and transcribe what came of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import load_model

RUN = ("trainer.max_steps=4", "logger=[]")


# With two learners all folders hold what one learner's would, and consensus models besides.
@pytest.mark.parametrize("learners", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_model_goes_from_folder_to_folder(launcher: Any, tiny_corpus: Path, learners: int) -> None:
    backend = "backend=single" if learners == 1 else "backend=dpsgd"
    launcher.train(learners, "name=first", backend, *RUN)
    first = launcher.script("evaluate", "run=exp/first", "sets=[dev]")
    assert first.returncode == 0, first.stderr

    second = ("name=second", "init_from=exp/first", "model_of=exp/first", backend, *RUN)
    output = launcher.train(learners, *second)
    assert "all weights" in output
    made = launcher.script("compress", "run=exp/second", "pass=rewrite", "checkpoint=avg:2", "name=mean")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("exp/second/export/mean: rewrite of step-")
    folder = launcher.folder / "exp" / "second" / "export" / "mean"
    again = launcher.script("compress", "run=exp/second", "pass=rewrite", "weights=exp/second/export/mean")
    assert again.returncode == 0, again.stderr
    sources = load_model(folder.parent / "rewrite").description.made_of
    assert [source.get("pass") for source in sources] == [None, "rewrite", "rewrite"]
    assert "init_from" in sources[0]
    assert len(sources[1]["weights_sha256"]) == 2, "the checkpoints of the mean"

    evaluated = launcher.script("evaluate", "run=exp/second", "weights=exp/second/export/mean", "sets=[dev]")
    assert evaluated.returncode == 0, evaluated.stderr
    figures = json.loads((folder / "eval" / "dev" / "wer-greedy.json").read_text())
    assert figures["checkpoint"] == "mean"
    mean = launcher.script("evaluate", "run=exp/second", "checkpoint=avg:2", "sets=[dev]")
    assert evaluated.stdout.splitlines()[-1] == mean.stdout.splitlines()[-1], "the same model, the same errors"
    audio = str(tiny_corpus / "dev-0.wav")
    texts = [
        launcher.script("transcribe", "run=exp/second", *chosen, audio).stdout
        for chosen in (["weights=exp/second/export/mean"], ["checkpoint=avg:2"])
    ]
    assert texts[0].startswith(f"{audio}\t")
    assert texts[0] == texts[1]
    best = load_model(model_folder_of(launcher.folder / "exp" / "second", "run"))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(best.model.parameters(), load_model(folder).model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=exp/none", "pass=rewrit"], "error: pass=rewrit"),
        (["run=exp/none"], "error: pass is not set; choose one: pass=int4"),
        (["run=exp/none", "pass=rewrite", "name=../x"], "error: name=../x: must be the name of a folder"),
    ],
)
def test_compress_refuses_in_one_line(launcher: Any, arguments: list[str], expected: str) -> None:
    done = launcher.script("compress", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
