"""The trials of a sweep on disk: what is written down, by which figure they are judged, what their runs are called."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distributed.errors import UsageError
from scripts.composition.sweeps.trials import Trial, check_definition, definition_of, run_of


def test_values_are_chosen_by_the_figure_under_tpe_alone() -> None:
    given = ("train", ["seed=1,2"])
    assert definition_of(*given, "grid", 1, "train/loss") == definition_of(*given, "grid", 2, None)
    assert definition_of(*given, "random", 1, "train/loss") == definition_of(*given, "random", 1, None)
    assert definition_of(*given, "tpe", 1, "train/loss") != definition_of(*given, "tpe", 1, None)


def test_a_batch_of_luck_at_the_end_makes_no_trial_the_best(tmp_path: Path) -> None:
    figures = []
    for number, (level, last) in enumerate([(1.0, 1.0), (1.1, 0.9)]):
        run_folder = tmp_path / str(number)
        (run_folder / "metrics").mkdir(parents=True)
        rows = [{"samples": count, "train/loss": level} for count in range(1, 40)] + [
            {"samples": 40, "train/loss": last}
        ]
        (run_folder / "metrics" / "0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run_folder / "summary.json").write_text(json.dumps({"final": rows[-1]}))
        figures.append(Trial(number, {}, run_folder).figure("train/loss"))
    assert figures[0] == ("train/loss", pytest.approx(1.0))
    assert figures[0][1] < figures[1][1]


def test_of_processes_that_begin_a_sweep_together_one_writes_what_it_is(tmp_path: Path) -> None:
    def begin(seed: int) -> str | None:
        together.wait()
        try:
            check_definition(tmp_path / "lr", {"seed": seed})
            (tmp_path / "lr" / "trials").mkdir(exist_ok=True)
        except UsageError as error:
            return str(error)
        return None

    seeds = [1, 1, 1, 2, 2, 2]
    together = threading.Barrier(len(seeds))
    with ThreadPoolExecutor(len(seeds)) as pool:
        refused = list(pool.map(begin, seeds))
    first = json.loads((tmp_path / "lr" / "definition.json").read_text())["seed"]
    for seed, error in zip(seeds, refused, strict=True):
        assert (error is None) == (seed == first)
        assert error is None or "holds another sweep: seed differ" in error


def test_names_of_runs_tell_what_differs() -> None:
    assert run_of(3, {"optimizer.lr": 0.001, "model/predictor": "stateless"}) == "003_lr-0.001_predictor-stateless"
    assert run_of(12, {"hooks": "[spec_augment,replicas]"}) == "012_hooks-_spec_augment_replicas"
    assert len(run_of(1, {"a": "x" * 300})) == 100
