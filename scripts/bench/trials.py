"""Trained runs that a benchmark compares: trains and evaluates them, and goes on where it was interrupted.

Every run lies in a folder of its own. Training always has its say: it refuses a folder of another configuration, and
has nothing to do in that of a finished run. An evaluation is done again unless its figures are of the weights of the
run and of its language models as they are now, and of the same search.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.material import manifest_name
from asr.decoding.wer import ErrorCounts, count_errors
from asr.parts import build
from asr.reporting.run import read_transcripts
from asr.runs.checkpoint import list_checkpoints
from asr.runs.choice import choose_checkpoints, origin_of
from asr.runs.model_folder import read_description
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.composition.against import method_of
from scripts.composition.compose import compose
from scripts.composition.startup import REPOSITORY

QUICK = ("trainer.max_steps=12", "trainer.evaluate_every=12", "trainer.checkpoint_every=12")


@dataclass(frozen=True, slots=True)
class Trials:
    """Trains and evaluates the runs of an experiment; the fields are the settings that all runs share."""

    learners: int
    folder: Path
    evaluated_set: str  # a split, or a manifest

    def run(self, fold: str, name: str) -> Path:
        """A run's folder; runs of a fold lie together."""
        return self.folder / fold / name

    def train(self, run: Path, *settings: str, script: str = "train") -> None:
        """Train a run to its end; a single learner needs no launcher."""
        self._refuse_other_learners(run)
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.learners))
        named = (f"exp_dir={run.parent}", f"name={run.name}")
        launcher = torchrun if self.learners > 1 else ()
        self.call(run, *launcher, str(REPOSITORY / f"scripts/{script}.py"), *named, *settings)

    def errors(
        self, run: Path, search: Sequence[str], fold: str, weights: Path | None = None
    ) -> dict[str, ErrorCounts]:
        """Errors of a trained run by fold and utterance; ``search`` are settings of scripts/evaluate.py.

        ``weights`` is a model folder that takes the place of the run's checkpoint, as what a pass has made of it.
        """
        of_folder = () if weights is None else (f"weights={weights}",)
        settings = (f"run={run}", f"sets=[{self.evaluated_set}]", *of_folder, *search)
        config = compose("evaluate", settings)
        origin = method_of(config) | (
            origin_of(choose_checkpoints(RunFolder(run).checkpoints, config.checkpoint))
            if weights is None
            else {"checkpoint": weights.name, "weights_sha256": [read_description(weights)[1]]}
        )
        name = manifest_name(self.evaluated_set)
        results = RunFolder(weights or run).evaluation(name, build(config.decode).name)
        if not is_of(results.figures, origin):
            self.call(run, str(REPOSITORY / "scripts/evaluate.py"), *settings)
        return {
            f"{fold}/{each.utterance_id}": count_errors(" ".join(each.reference), " ".join(each.hypothesis))
            for each in read_transcripts(results.transcripts)
        }

    def tune(self, run: Path, search: Sequence[str], tuned_set: str = "dev") -> dict[str, Any]:
        """The record that scripts/tune_fusion.py leaves of a beam search; ``search`` are its settings."""
        settings = (f"run={run}", f"set={tuned_set}", *search)
        self.call(run, str(REPOSITORY / "scripts/tune_fusion.py"), *settings)
        name = build(compose("tune_fusion", settings).decode).name
        file = RunFolder(run).evaluation(manifest_name(tuned_set), name).fusion
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def _refuse_other_learners(self, run: Path) -> None:
        """Refuse another number of learners, which the configuration does not hold, as a resume may change it."""
        checkpoints, _ = list_checkpoints(RunFolder(run).checkpoints)
        others = {each.world_size for each in checkpoints} - {self.learners}
        if others:
            raise UsageError(
                f"--learners {self.learners}: {run} holds a run of {others.pop()}; choose another --folder, or remove it"
            )

    def call(self, run: Path, *command: str) -> None:
        """Run Python with these arguments, its output in a log beside the run's folder."""
        run.parent.mkdir(parents=True, exist_ok=True)
        log = run.parent / f"{run.name}.log"
        status = self.execute(command, log)
        if status:
            raise UsageError(f"{run.name} ended with exit code {status}; see {log}")

    def execute(self, command: Sequence[str], log: Path) -> int:
        """The exit status of Python with these arguments, its output appended to ``log``."""
        with log.open("a", encoding="utf-8") as output:
            return subprocess.run(
                [sys.executable, *command], stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode


def is_of(figures: Path, origin: Mapping[str, Any]) -> bool:
    """True if an evaluation's results exist and agree with all given facts, as scripts/evaluate.py records them."""
    if not figures.is_file():
        return False
    record = json.loads(figures.read_text(encoding="utf-8"))
    return all(record.get(key) == value for key, value in origin.items())
