"""A sweep from its command to its table. Learners are small scripts here, which write what a run writes at its end."""

import csv
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from asr.training.stopped import EXIT_CODE as STOPPED
from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.composition.sweeps import sweep, table
from scripts.composition.sweeps.sweep import Child, checked, options_of_sbatch, run
from scripts.composition.sweeps.trials import TrialFolder, run_of

GRID = ["name=lr", "train", "optimizer.lr=0.1,0.3,0.2", "seed=1,2"]

RUN = """
import json, os, sys
given = dict(each.split("=", 1) for each in sys.argv[1:] if "=" in each)
folder = os.path.join(given["exp_dir"], given["name"])
os.makedirs(os.path.join(folder, "metrics"), exist_ok=True)
with open("started.txt", "a") as file:
    print(*sys.argv[1:], file=file)
{body}
wer = float(given["optimizer.lr"]) + 0.01 * int(given["seed"])
summary = {{"best": {{"checkpoint": "step-00000010", "wer": wer}}, "final": {{"train/loss": -wer}}, "steps": 10, "wall_seconds": 1.5}}
with open(os.path.join(folder, "metrics", "0.jsonl"), "w") as file:
    print(json.dumps({{"samples": 10, "train/loss": -wer}}), file=file)
with open(os.path.join(folder, "summary.json"), "w") as file:
    json.dump(summary, file)
"""


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """``trials(body)``: the launcher of this sweep is a script that runs ``body`` and then writes a summary; no page is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "REPOSITORY", tmp_path)
    # Values of the runs are checked in a test of its own: composing takes longer than all that is looked at here.
    run = OmegaConf.create({"evaluation": {"sets": ["dev"]}})
    monkeypatch.setattr(sweep, "compose", lambda name, own: compose(name, own) if name == "sweep" else run)
    (tmp_path / "scripts").mkdir()
    pages: list[list[str]] = []
    monkeypatch.setattr("scripts.composition.pages.run", pages.append)

    def make(body: str = "") -> None:
        (tmp_path / "scripts" / "launch.py").write_text(RUN.format(body=body))

    make()
    return make


def started() -> list[str]:
    path = Path("started.txt")
    return path.read_text().splitlines() if path.exists() else []


def test_a_grid_is_tried_and_its_table_begins_with_the_best(
    trials: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["learners=2", "restarts=1", *GRID]) == 0
    lines = started()
    assert len(lines) == 6
    assert lines[0].split() == [
        "--learners", "2", "--restarts", "1", "train", "exp_dir=exp/lr", "name=000_lr-0.1_seed-1", "optimizer.lr=0.1", "seed=1",
    ]  # fmt: skip
    with open("exp/lr/sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["optimizer.lr"], row["seed"]) for row in rows] == [
        ("0.1", "1"), ("0.1", "2"), ("0.2", "1"), ("0.2", "2"), ("0.3", "1"), ("0.3", "2"),
    ]  # fmt: skip
    assert list(rows[0]) == [
        "trial",
        "optimizer.lr",
        "seed",
        "wer",
        "checkpoint",
        "steps",
        "wall_seconds",
        "state",
        "run",
    ]
    written = json.loads(Path("exp/lr/sweep.json").read_text())["rows"]
    assert [row["wer"] for row in written] == [float(row["wer"]) for row in rows]
    assert "best of 6: wer 0.11 with optimizer.lr=0.1 seed=1 (000_lr-0.1_seed-1)" in capsys.readouterr().out


def test_finished_trials_are_not_run_again_and_failed_ones_are(trials: Callable[..., None]) -> None:
    trials("if given['optimizer.lr'] == '0.3' or given['seed'] == '2': sys.exit(3)")
    assert run(GRID) == 1
    states = {trial.number: trial.state for trial in TrialFolder(Path("exp/lr")).all()}
    assert states == {0: "finished", 1: "failed", 2: "failed", 3: "failed", 4: "finished", 5: "failed"}
    trials()
    assert run(GRID) == 0
    assert len(started()) == 6 + 4
    assert run(GRID) == 0
    assert len(started()) == 10
    assert {row["state"] for row in json.loads(Path("exp/lr/sweep.json").read_text())["rows"]} == {"finished"}


def test_a_signal_reaches_the_trial_which_saves_and_no_other_is_begun(
    trials: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    trials(f"""
import signal, time
def asked(*_):
    open("asked", "w").close()
    sys.exit({STOPPED})
signal.signal(signal.SIGTERM, asked)
open("ready", "w").close()
time.sleep(60 if given["seed"] == "2" else 0)
""")

    def ask() -> None:
        while len(started()) < 2 or not Path("ready").exists():
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    assert run(GRID) == STOPPED
    asking.join()
    assert Path("asked").exists()
    assert len(started()) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on"
    trials()
    assert run(GRID) == 0
    assert len(started()) == 2 + 5, "the second one again, then the others"


def test_a_signal_that_comes_before_the_process_reaches_it() -> None:
    child = Child()
    child.ask(signal.SIGTERM, None)
    assert child.run(["sleep", "60"]) == -signal.SIGTERM


def test_a_job_of_an_array_makes_its_trial_alone(trials: Callable[..., None]) -> None:
    assert run(["trial=4", *GRID]) == 0
    assert [line.split()[-2:] for line in started()] == [["optimizer.lr=0.2", "seed=1"]]
    with pytest.raises(UsageError, match="trial=6: there are 6, counted from 0"):
        run(["trial=6", *GRID])


def test_an_array_has_the_trials_that_have_not_finished(
    trials: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(["trial=1", *GRID]) == 0
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f'#!/bin/sh\nfor each in "$@" "$MURMURATION_CODE" "$PYTHON"; do echo "$each"; done > {tmp_path}/submitted\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    assert run(["where=slurm", "sbatch=--partition=high --time=5", *GRID]) == 0
    submitted = (tmp_path / "submitted").read_text().splitlines()
    assert submitted[0] == "--export=ALL", "a value inside it would end at its first comma"
    assert submitted[1:5] == [
        "--array=0,2,3,4,5",
        "--partition=high",
        "--time=5",
        f"{tmp_path}/scripts/slurm/sweep.sbatch",
    ]
    assert submitted[5:-2] == ["where=slurm", "sbatch=--partition=high --time=5", *GRID]
    assert submitted[-2:] == [str(tmp_path), sys.executable]


def test_options_of_sbatch_are_split_as_by_a_shell() -> None:
    assert options_of_sbatch("--comment='two words' --time=5") == ["--comment=two words", "--time=5"]
    with pytest.raises(UsageError, match="sbatch=--comment='two: No closing quotation; write it as in a shell"):
        options_of_sbatch("--comment='two")


def test_another_metric_can_be_made_small(trials: Callable[..., None]) -> None:
    assert run(["figure=train/loss", *GRID]) == 0
    rows = json.loads(Path("exp/lr/sweep.json").read_text())["rows"]
    assert [row["optimizer.lr"] for row in rows] == ["0.3", "0.3", "0.2", "0.2", "0.1", "0.1"]
    assert "train/loss" in rows[0]


def test_a_figure_that_no_trial_has_leaves_the_table_and_can_be_corrected(trials: Callable[..., None]) -> None:
    with pytest.raises(
        UsageError, match=r"figure=eval/dev/wer: the last row of .* has no such number; it has train/loss"
    ):
        run(["figure=eval/dev/wer", *GRID])
    rows = json.loads(Path("exp/lr/sweep.json").read_text())["rows"]
    assert [(row["trial"], row["state"], row["steps"]) for row in rows] == [(n, "finished", 10) for n in range(6)]
    assert run(["figure=train/loss", *GRID]) == 0
    assert len(started()) == 6, "no trial is made again"


def test_the_folder_of_another_sweep_is_refused_and_more_trials_are_the_same_sweep(trials: Callable[..., None]) -> None:
    assert run(["trials=2", *GRID]) == 0
    assert run(["trials=3", *GRID]) == 0
    assert len(started()) == 3
    with pytest.raises(UsageError, match=r"exp/lr holds another sweep: overrides differ"):
        run([*GRID, "backend=dpsgd"])
    Path("exp/run/metrics").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"exp/run holds something else than a sweep"):
        run(["name=run", *GRID[1:]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["name=lr", "optimizer.lr=0.1,0.2"], "optimizer"),
        (["name=lr"], "what shall be swept is not said: one of train, train_lm"),
        (["train", "seed=1,2"], "name must be set"),
        (["name=lr", "train", "name=x", "seed=1,2"], "name=x: set by the sweep for each trial"),
        (["name=lr", "train", "seed=1,-2"], "seed=-2"),
        (["name=lr", "train", "optimizer.l=1,2"], "unknown key 'optimizer.l'; did you mean 'optimizer.lr'"),
        (["name=lr", "train", "backend=dpsgd,adpsg"], "did you mean 'adpsgd'"),
        (["name=lr", "train", "=1,2"], "cannot read the argument"),
        (["name=lr", "train", "optimizer.lr=interval(0.1,0.2)"], "sampler=tpe needs a number of trials"),
        (["name=lr", "train", "seed=1,2", "evaluation.sets=[]"], "no evaluation will choose a best checkpoint"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_starts(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_page_compares_the_runs_that_have_finished(
    trials: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[list[str]] = []
    monkeypatch.setattr("scripts.composition.pages.run", pages.append)
    trials("if given['seed'] == '2': sys.exit(3)")
    assert run(GRID) == 1
    assert pages == [
        [
            f"exp/lr/{run_of(number, values)}"
            for number, values in (
                (0, {"lr": 0.1, "seed": 1}),
                (2, {"lr": 0.3, "seed": 1}),
                (4, {"lr": 0.2, "seed": 1}),
            )
        ]
        + ["out=exp/lr/comparison.html", "lattices=0"]
    ]


def test_the_table_has_a_row_for_trials_without_a_result() -> None:
    none = table.results_of([], None)
    assert none == table.Results([], None, [])
    assert table.best_line(none, ["seed"]) is None
