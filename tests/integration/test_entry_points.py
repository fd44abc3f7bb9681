"""What a user types, and what they get: one run from training to a page, and refusals that cost nothing."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

RUN = ("name=run", "trainer.max_steps=6", "logger=[tensorboard]")
KEYS = {
    "train/loss", "train/lr", "train/grad_norm", "train/clipped", "train/bad_steps", "time/step", "time/data_wait",
    "time/compute", "time/comm_exposed", "throughput/audio_seconds_per_second", "data/padding_fraction",
    "data/lattice_cells", "data/skipped", "comm/bytes_sent", "comm/bytes_received", "comm/rounds",
    "comm/rounds_per_step",
}  # fmt: skip


def test_from_training_to_a_page(launcher: Any, tiny_corpus: Path) -> None:
    output = launcher.train_torchrun(2, *RUN)
    assert "2 learners, 40 utterances" in output
    run = launcher.folder / "exp" / "run"
    check_run_folder(run)
    check_scripts(launcher, run, tiny_corpus)
    assert "evaluation at step 6/6  ETA 0:00  dev: loss" in output

    again = launcher.train(2, *RUN)
    assert "resuming from checkpoint step-00000006" in again, "a finished run has nothing to do, and says where it is"
    assert launcher.rows("run", 0)[-1]["samples"] == 48


def check_run_folder(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml", "metrics.jsonl", "metrics", "summary.json", "checkpoints", "logs", "tensorboard", "tokenizer",
    }  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["learner"] for row in rows} == {0, 1}
    training = [row for row in rows if "train/loss" in row]
    assert all(row.keys() >= KEYS | {"step", "global_step", "samples", "epoch", "wall_seconds"} for row in training)
    assert any("eval/dev/wer" in row and "eval/dev/loss" in row for row in rows)
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    assert checkpoint.name == "step-00000006"
    assert {path.name for path in checkpoint.iterdir()} == {
        "learner-0.pt", "learner-1.pt", "shared.pt", "model.safetensors", "model.yaml", "tokenizer", "manifest.json",
    }  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert summary["learners"] == 2
    assert summary["precision"] == "fp32"
    assert summary["environment"]["versions"]["torch"]
    assert (run / "logs" / "rank-1.log").is_file()


def check_scripts(launcher: Any, run: Path, corpus: Path) -> None:
    own = corpus / "own.jsonl"
    shutil.copy(corpus / "dev.jsonl", own)
    evaluated = launcher.script("evaluate", "run=exp/run", f"sets=[dev,{own}]", "checkpoint=last")
    own.unlink()
    assert evaluated.returncode == 0, evaluated.stderr
    assert "[dev] %WER" in evaluated.stdout
    assert "[own] %WER" in evaluated.stdout
    figures = json.loads((run / "eval" / "dev" / "wer-greedy.json").read_text())
    assert figures.keys() >= {
        "wer", "cer", "insertions", "deletions", "substitutions", "reference_words", "utterances",
    }  # fmt: skip
    assert figures["checkpoint"] == "step-00000006"
    assert figures["precision"] == "fp32"
    refused = launcher.script("evaluate", "run=exp/run", f"sets=[{corpus / 'dev.jsonl'}]")
    assert refused.returncode == 2
    assert "rename the file" in refused.stderr
    for name in ("recogs", "errs", "wer"):
        assert (run / "eval" / "dev" / f"{name}-greedy.txt").is_file()

    soundfile.write(launcher.folder / "stereo.flac", 0.1 * np.random.default_rng(0).standard_normal((22050, 2)), 22050)
    transcribed = launcher.script("transcribe", "run=exp/run", str(corpus / "dev-0.wav"), "stereo.flac")
    assert transcribed.returncode == 0, transcribed.stderr
    assert [line.split("\t")[0] for line in transcribed.stdout.splitlines()] == [
        str(corpus / "dev-0.wav"),
        "stereo.flac",
    ]
    assert "resampling from 22050 to 8000 Hz" in transcribed.stderr

    reported = launcher.script("report", "exp/run")
    assert reported.returncode == 0, reported.stderr
    page = (run / "report.html").read_text()
    assert "<svg" in page
    lattices = page.partition('id="alignments"')[2].partition("</section>")[0]
    assert list(dict.fromkeys(re.findall("dev-[0-9]", lattices))) == [f"dev-{index}" for index in range(4)], (
        "lattices of the first utterances, in the order of the manifest"
    )


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("train", ["bakend=dpsgd"], "error: unknown key 'bakend'; did you mean 'backend'?"),
        ("train", ["optimizer.lr=-1"], "error: optimizer.lr=-1: must be a number above 0"),
        ("evaluate", [], "error: run must be set: add run=... to the command"),
        ("evaluate", ["run=exp/nothing"], "error: run=exp/nothing: no config.yaml there"),
        ("transcribe", ["run=exp/nothing"], "error: no audio files given"),
        ("report", [], "error: no run given"),
        ("evaluate", ["run=x", "backend=dpsgd"], "error: backend=dpsgd: evaluate has no group 'backend'"),
    ],
)
def test_refusals_are_one_line_and_touch_nothing(
    launcher: Any, script: str, arguments: list[str], expected: str
) -> None:
    check_refusal(launcher.script(script, *arguments), expected)
    assert list(launcher.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=fsdd_digits", "data.root=nowhere"], "data.root"),
        (["exp_dir=a-file/below"], "error: Not a directory: a-file/below"),
    ],
)
def test_refusals_after_the_start_are_one_line_too(launcher: Any, arguments: list[str], expected: str) -> None:
    (launcher.folder / "a-file").write_text("")
    check_refusal(launcher.script("train", *arguments), expected)
    assert [path.name for path in launcher.folder.iterdir()] == ["a-file"]


def check_refusal(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error"), "the last thing printed"


def test_a_wrong_number_of_learners_is_refused_once_before_anything_starts(launcher: Any) -> None:
    output = launcher.end(launcher.start_launcher(2, "batch.units=3"), expect=2)
    (line,) = output.splitlines()
    assert line.startswith("error: 2 learners cannot share a global batch of batch.units=3 units: start 1, 3 learners")
    assert not (launcher.folder / "exp").exists()


def test_a_run_folder_belongs_to_one_configuration(launcher: Any) -> None:
    launcher.train(1, *RUN, "backend=single")
    output = launcher.train(1, *RUN, "backend=single", "optimizer.lr=0.1", "seed=5", expect=1)
    assert "holds a run with another configuration; it differs in optimizer.lr, seed" in output
    output = launcher.train(1, *RUN, "backend=single", "resume=false", expect=1)
    assert "resume=false would overwrite it" in output


def test_bad_audio_met_while_training_stops_the_run_and_names_the_file(launcher: Any, tiny_corpus: Path) -> None:
    lines = (tiny_corpus / "train.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    bad = launcher.folder / "nan.wav"
    seconds = records[5]["duration"]
    soundfile.write(bad, np.full(round(seconds * 8000), np.nan, dtype=np.float32), 8000, subtype="FLOAT")
    for record in records:
        record["audio_filepath"] = str(tiny_corpus / record["audio_filepath"])
    records[5]["audio_filepath"] = str(bad)
    manifest = launcher.folder / "train.jsonl"
    manifest.write_text("\n".join(map(json.dumps, records)))
    output = launcher.train(1, *RUN, "backend=single", f"data.train={manifest}", expect=1)
    assert f"{bad}: sample 0 is nan, not a number to compute with; write the file anew" in output
    output = launcher.train(1, "name=skipping", "backend=single", f"data.train={manifest}", "data.on_bad=skip")
    rows = launcher.rows("skipping", 0)
    assert max(row.get("data/skipped", 0) for row in rows) == 1, "met once an epoch, counted once"


def test_a_trained_run_needs_nothing_of_its_corpus_to_transcribe(launcher: Any, tiny_corpus: Path) -> None:
    corpus = launcher.folder / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    launcher.train(1, *RUN, "backend=single", f"data.root={corpus}")
    audio = launcher.folder / "audio.wav"
    shutil.copy(corpus / "dev-1.wav", audio)
    shutil.rmtree(corpus)
    done = launcher.script("transcribe", "run=exp/run", str(audio))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{audio}\t")
    odd = launcher.folder / "take=1.wav"
    audio.rename(odd)
    done = launcher.script("transcribe", "run=exp/run", odd.name)
    assert done.stdout.startswith(f"{odd.name}\t"), "an existing file is a file, whatever its name"

    reported = launcher.script("report", "exp/run")
    assert reported.returncode == 0, reported.stderr
    assert reported.stderr.startswith("no lattices: data.train: there is no manifest")
    page = (launcher.folder / "exp" / "run" / "report.html").read_text()
    assert "<svg" in page
    assert "alignments" not in page


def test_a_start_that_failed_leaves_nothing_in_the_way(launcher: Any, tiny_corpus: Path) -> None:
    """The remedy that the error names works under the same run name."""
    alphabet = "tokenizer.alphabet=' abcdefghijklmnopqrstuvwxy'"
    failed = launcher.train(1, *RUN, "backend=single", alphabet.replace("y'", "'"), expect=1)
    assert "error" in failed
    assert "'y'" in failed, "the character that the alphabet lacks"
    assert not (launcher.folder / "exp").exists()
    output = launcher.train(1, *RUN, "backend=single", alphabet)
    assert "done" in output


def test_changed_training_data_is_refused_at_resume(launcher: Any, tiny_corpus: Path) -> None:
    corpus = launcher.folder / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    launcher.train(1, *RUN, "backend=single", f"data.root={corpus}")
    manifest = corpus / "train.jsonl"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]))
    output = launcher.train(1, *RUN, "backend=single", f"data.root={corpus}", expect=1)
    assert "was written with other training data" in output


def test_dropout_and_augmentation_do_not_depend_on_the_number_of_learners(launcher: Any) -> None:
    run = ("trainer.max_steps=8", "trainer.precision=fp64", "model.encoder.dropout=0.3", "hooks=[spec_augment]")
    curves = []
    for learners in (1, 2):
        launcher.train(learners, f"name={learners}", *run)
        curves.append([row["train/loss"] for row in launcher.rows(str(learners), 0) if "train/loss" in row])
    assert len(curves[0]) == 8
    assert curves[1] == pytest.approx(curves[0], rel=1e-9)
