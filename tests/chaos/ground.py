"""What the trials of a campaign share: a corpus, a place for their folders, and the weights of undisturbed runs."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.oracle import check_finished
from tests.chaos.trial import BACKENDS, STEPS, Ended, Trial
from tests.corpus import write_corpus
from tests.schemes import SCHEMES

WINDOWS = ((2, 8), (12, 18), (22, 28), (32, 38))  # global steps in which the faults of one run are done


@dataclass(frozen=True, slots=True)
class Tried:
    """One fault, or several alike, and what came of it."""

    outcome: str
    seconds: float | None = None  # from the fault to the end of the last learner; None: there was none
    tries: int = 1


@dataclass
class Ground:
    """A folder with everything; its runs are made as they are needed."""

    root: Path
    quick: bool = False
    corpus: Path = field(init=False)
    made: int = 0  # trials
    references: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corpus = self.root / "corpus"
        self.corpus.mkdir(parents=True)
        write_corpus(self.corpus)

    @property
    def windows(self) -> Sequence[tuple[int, int]]:
        """The global steps in which the faults of one run are done, first and last of each."""
        return WINDOWS[:2] if self.quick else WINDOWS

    def trial(
        self, draw: random.Random, backends: Sequence[str] = BACKENDS, learners: int = 0, **options: object
    ) -> Trial:
        """A fresh run of a backend that is drawn; of two learners, now and then three."""
        self.made += 1
        word = draw.choice(backends)
        drawn = draw.choice((2, 2, 2, 3))
        return Trial(self.root / f"{self.made:04d}-{word}", self.corpus, word, learners or drawn, **options)

    def reference(self, trial: Trial) -> bytes | None:
        """The weights at the end of an undisturbed run like this one; None in schemes that do not repeat bitwise."""
        key = trial.backend, trial.learners
        if not SCHEMES[trial.backend].lockstep:
            return None
        if key not in self.references:
            other = Trial(self.root / f"undisturbed-{trial.backend}-{trial.learners}", self.corpus, *key, pace=0.0)
            other.start()
            check_finished(other, other.wait(), None)
            self.references[key] = (other.run / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()
            shutil.rmtree(other.folder)
        return self.references[key]

    def finish(self, trial: Trial, *, bitwise: bool = True) -> None:
        """Give the same command once more, undisturbed, and check the end; a run that kept its promises is then removed."""
        trial.start()
        self.close(trial, bitwise=bitwise)

    def close(self, trial: Trial, *, bitwise: bool = True) -> None:
        """As ``finish``, of a run that has been started."""
        self.judge(trial, trial.wait(), bitwise=bitwise)

    def judge(self, trial: Trial, ended: Ended, *, bitwise: bool = True) -> None:
        """As ``finish``, of a run that has ended."""
        check_finished(trial, ended, self.reference(trial) if bitwise else None)
        shutil.rmtree(trial.run)
