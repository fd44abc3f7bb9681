"""The folder of a run: where everything lies that a run reads and writes. No other module spells these names.

config.yaml               resolved; a run is repeated with it            .lock      held while somebody trains there
tokenizer/                between texts and tokens                       summary.json   at the end: figures, environment
metrics/<learner>.jsonl   a row per logged step and evaluation           metrics.jsonl  the same of all learners, merged
checkpoints/              step-..., damaged-..., emergency-...           logs/rank-<rank>.log
refused/                  utterances left out                            bad_batches/   steps that were not finite
arithmetic.json           where it is not the configured one             report.html
eval/<set>/               what scripts/evaluate.py writes                export/<name>/ model folders of passes
alignment/, nbest/<split>/  what scripts/align.py and make_nbest.py write
tensorboard/, wandb/      of these loggers
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below the folder of a run; nothing is looked at or made."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, which establishes the run."""
        return self.path / "config.yaml"

    @property
    def lock(self) -> Path:
        """Locked by learner 0 while the run goes on."""
        return self.path / ".lock"

    @property
    def tokenizer(self) -> Path:
        """A folder."""
        return self.path / "tokenizer"

    @property
    def metrics(self) -> Path:
        """The folder of every learner's rows."""
        return self.path / "metrics"

    def metrics_of(self, learner: int) -> Path:
        """The rows of one learner."""
        return self.metrics / f"{learner}.jsonl"

    @property
    def merged_metrics(self) -> Path:
        """The rows of all learners."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """A folder."""
        return self.path / "checkpoints"

    @property
    def bad_batches(self) -> Path:
        """The folder of what made a step's loss or gradient not finite."""
        return self.path / "bad_batches"

    @property
    def arithmetic(self) -> Path:
        """What the run computes in, where that is not what its configuration says."""
        return self.path / "arithmetic.json"

    @property
    def summary(self) -> Path:
        """Final and best figures, written at the end."""
        return self.path / "summary.json"

    @property
    def logs(self) -> Path:
        """A folder."""
        return self.path / "logs"

    def log_of(self, rank: int) -> Path:
        """The log of one learner."""
        return self.logs / f"rank-{rank}.log"

    @property
    def screening(self) -> Path:
        """Utterances that were refused before training."""
        return self.path / "refused" / "screening.jsonl"

    def refused_of(self, learner: int) -> Path:
        """Utterances that one learner refused while it loaded them."""
        return self.path / "refused" / f"{learner}.jsonl"

    @property
    def evaluations(self) -> Path:
        """The folder of evaluations; model folders that were evaluated have one too."""
        return self.path / "eval"

    def evaluation(self, name: str, decode: str) -> "Evaluation":
        """The files of a set that was decoded by the search called ``decode``."""
        return Evaluation(self.evaluations / name, decode)

    def evaluated(self) -> "list[Evaluation]":
        """Those whose figures are there."""
        found = sorted(self.evaluations.glob("*/wer-*.json"))
        return [Evaluation(each.parent, each.stem.removeprefix("wer-")) for each in found]

    def evaluation_summary(self, decode: str) -> Path:
        """One line for each set of the last call."""
        return self.evaluations / f"summary-{decode}.txt"

    def export(self, name: str) -> Path:
        """A model folder that a pass made of the run."""
        return self.path / "export" / name

    @property
    def alignment(self) -> Path:
        """The folder of the alignments of splits."""
        return self.path / "alignment"

    def nbest(self, split: str) -> Path:
        """The folder of the n-best lists of a split."""
        return self.path / "nbest" / split

    @property
    def report(self) -> Path:
        """The page about this run alone."""
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        """A folder."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """A folder."""
        return self.path / "wandb"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Paths of one set, decoded by one search; nothing is looked at or made."""

    folder: Path  # eval/<set>
    decode: str  # the name of the search

    @property
    def name(self) -> str:
        """That of the set."""
        return self.folder.name

    @property
    def transcripts(self) -> Path:
        """What was said and what was recognised."""
        return self.folder / f"recogs-{self.decode}.txt"

    @property
    def errors(self) -> Path:
        """Errors by utterance, word pair, word, speaker."""
        return self.folder / f"errs-{self.decode}.txt"

    @property
    def rates(self) -> Path:
        """For people."""
        return self.folder / f"wer-{self.decode}.txt"

    @property
    def figures(self) -> Path:
        """The same for programs, as JSON, and what they are of."""
        return self.folder / f"wer-{self.decode}.json"

    def against(self, other: str) -> Path:
        """The comparison with another run."""
        return self.folder / f"against-{other}-{self.decode}.json"

    @property
    def fusion(self) -> Path:
        """What every setting of language models gave that scripts/tune_fusion.py tried."""
        return self.folder / f"fusion-{self.decode}.json"
