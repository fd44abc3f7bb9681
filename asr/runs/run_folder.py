"""The folder of a run: paths of all files that a run reads and writes. No other module spells these names.

config.yaml               resolved; a run is repeated with it            .lock      held while somebody trains there
tokenizer/                between texts and tokens                       summary.json   at the end: figures, environment
metrics/<learner>.jsonl   a row per logged step and evaluation           metrics.jsonl  the same of all learners, merged
checkpoints/              step-..., damaged-..., emergency-...           logs/rank-<rank>.log
refused/                  utterances left out                            bad_batches/   steps that were not finite
left_out/                 global batches left out, after such steps
arithmetic.json           where it is not the configured one             report.html
timeline/<learner>.json   when the newest steps computed, waited and exchanged
eval/<set>/               what scripts/evaluate.py writes                export/<name>/ of passes and exports
alignment/, nbest/<split>/  what scripts/align.py and make_nbest.py write
tensorboard/, wandb/      of these loggers
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below the folder of a run; nothing is read or created."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, which establishes the run."""
        return self.path / "config.yaml"

    @property
    def lock(self) -> Path:
        """The file that learner 0 holds locked while the run goes on."""
        return self.path / ".lock"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.path / "tokenizer"

    @property
    def metrics(self) -> Path:
        """Folder of the metrics files of all learners."""
        return self.path / "metrics"

    def metrics_of(self, learner: int) -> Path:
        """Metrics file of one learner."""
        return self.metrics / f"{learner}.jsonl"

    @property
    def timelines(self) -> Path:
        """Folder of the timelines of all learners."""
        return self.path / "timeline"

    def timeline_of(self, learner: int) -> Path:
        """Timeline of one learner."""
        return self.timelines / f"{learner}.json"

    @property
    def merged_metrics(self) -> Path:
        """The metrics of all learners in one file."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def bad_batches(self) -> Path:
        """Folder of the batches whose loss or gradient was not finite."""
        return self.path / "bad_batches"

    @property
    def left_out(self) -> Path:
        """Folder that lists the global batches that the run leaves out."""
        return self.path / "left_out"

    @property
    def arithmetic(self) -> Path:
        """The precision that the run computes in, where it differs from the configured one."""
        return self.path / "arithmetic.json"

    @property
    def summary(self) -> Path:
        """Final and best metrics, written at the end."""
        return self.path / "summary.json"

    @property
    def logs(self) -> Path:
        """Folder of the text logs."""
        return self.path / "logs"

    def log_of(self, rank: int) -> Path:
        """The log of one learner."""
        return self.logs / f"rank-{rank}.log"

    @property
    def screening(self) -> Path:
        """List of the utterances that were refused before training."""
        return self.path / "refused" / "screening.jsonl"

    def refused_of(self, learner: int) -> Path:
        """List of the utterances that one learner refused while it loaded them."""
        return self.path / "refused" / f"{learner}.jsonl"

    @property
    def evaluations(self) -> Path:
        """The folder of evaluations; model folders that were evaluated have one too."""
        return self.path / "eval"

    def evaluation(self, name: str, decode: str) -> "Evaluation":
        """The files of a set that was decoded by the search called ``decode``."""
        return Evaluation(self.evaluations / name, decode)

    def evaluated(self) -> "list[Evaluation]":
        """The evaluations whose result files exist."""
        found = sorted(self.evaluations.glob("*/wer-*.json"))
        return [Evaluation(each.parent, each.stem.removeprefix("wer-")) for each in found]

    def evaluation_summary(self, decode: str) -> Path:
        """Summary with a line for each set of the last call."""
        return self.evaluations / f"summary-{decode}.txt"

    def export(self, name: str) -> Path:
        """Folder that a pass or an export wrote from this run's model."""
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
        """The HTML page about this run."""
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """Folder of the Weights & Biases logger."""
        return self.path / "wandb"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Paths of the results of one set, decoded by one search; nothing is read or created."""

    folder: Path  # eval/<set>
    decode: str  # the name of the search

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.folder.name

    @property
    def transcripts(self) -> Path:
        """Reference and recognised text of each utterance."""
        return self.folder / f"recogs-{self.decode}.txt"

    @property
    def errors(self) -> Path:
        """Errors by utterance, word pair, word, speaker."""
        return self.folder / f"errs-{self.decode}.txt"

    @property
    def rates(self) -> Path:
        """Error rates as text for people."""
        return self.folder / f"wer-{self.decode}.txt"

    @property
    def figures(self) -> Path:
        """Error rates as JSON, with the search and model that they were measured with."""
        return self.folder / f"wer-{self.decode}.json"

    def against(self, other: str) -> Path:
        """Comparison with another run."""
        return self.folder / f"against-{other}-{self.decode}.json"

    @property
    def fusion(self) -> Path:
        """Error rates of all language model weights that scripts/tune_fusion.py tried."""
        return self.folder / f"fusion-{self.decode}.json"
