"""What studies of compressed recognisers share: corpora and models, a start, further steps that all get alike, the errors of what comes of them.

From every seed a model is trained in full, or one is named; all that is compared begins there and gets as many further
steps, on the same batches, at the same decreasing rate: the control, which is not compressed, and one run or several for
each way of compressing. What a study has trained and decoded is not made again when it goes on.
"""

import argparse
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.decoding.wer import ErrorCounts
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.bench.forked import ForkedTrials
from scripts.bench.paired import Errors, total
from scripts.bench.report import save_figures
from scripts.bench.trials import QUICK
from scripts.composition.startup import REPOSITORY

SHARED = [
    "backend=single",
    "evaluation.sets=[]",
    "trainer.memory_probe=false",
    "trainer.checkpoint_every=100",
    "logger=[]",
]
DECREASING = ["schedule.warmup_fraction=0", "schedule.final_factor=0.025"]
CONTROL = "control"
MANY_EPOCHS = 1000  # so that it is the steps that end a run, whatever its experiment has


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus and the models that are compared on it."""

    settings: Sequence[str]
    models: Mapping[str, Sequence[str]]
    start: Sequence[str]  # of the training that all begins with; none: it takes hours, and its result is named
    further: Sequence[str]  # of the steps after it
    quantisation_steps: int  # so many of them where few bits are trained
    pruning_steps: int  # and where units are dropped, which takes longer
    bits: Sequence[int] = (4, 3, 2, 8)  # that are measured, in this order


CORPORA = {
    "fsdd": Corpus(
        ["experiment=fsdd_connected", "data.train_strings=1600", "data.dev_strings=60"],
        {
            "lstm": ["model=lstm_tiny", "model.encoder.layers=3", "model.encoder.hidden=96"],
            "conformer": ["model=conformer_tiny"],
        },
        ["trainer.epochs=20"],  # 2,000 steps of 16 strings, as many as the recipe has
        ["optimizer.lr=0.001", *DECREASING],
        quantisation_steps=100,
        pruning_steps=600,
    ),
    "demo": Corpus(
        ["experiment=demo", "batch.units=1"],
        {
            "lstm": ["model=lstm_tiny"],
            "conformer": ["model/predictor=stateless", "features._target_=asr.data.sherpa_features.SherpaLogMel"],
        },
        ["trainer.max_steps=700", "batch.units=2"],
        ["optimizer.lr=0.0005", *DECREASING],
        quantisation_steps=40,
        pruning_steps=240,
    ),
    "librispeech": Corpus(
        ["experiment=librispeech_small_finetune"],
        {"conformer": []},
        [],
        ["optimizer.lr=0.0003", *DECREASING],
        quantisation_steps=300,
        pruning_steps=600,
        bits=(4, 8),
    ),
}


class Study:
    """Trains, compresses and evaluates what is compared for one model."""

    def __init__(
        self,
        trials: ForkedTrials,
        corpus: Corpus,
        model: str,
        settings: Sequence[str],
        steps: int,
        start: Path | None = None,
        chosen: Sequence[str] | None = None,
    ) -> None:
        self.trials = trials
        self.corpus = corpus
        self.model = model
        self.settings = [*corpus.settings, *SHARED, *corpus.models[model], *settings]
        self.steps = steps  # that each way gets after the start
        self.start = start  # a model folder at which all seeds begin; None: each seed trains its own
        self.chosen = chosen  # ways that are compared; None: all that the model has

    def begun(self, seed: int) -> dict[str, dict[str, ErrorCounts]]:
        """Errors of the start and of the control of a seed."""
        control = self.run(CONTROL, seed)
        if self.start is None:
            self.trials.train(self.run("start", seed), f"seed={seed}", *self.corpus.start, *self.settings)
        self.trials.train(control, *self.further(seed))
        begun = self.errors(self.run("start", seed)) if self.start is None else self.errors(control, self.start)
        return {"start": begun, CONTROL: self.errors(control)}

    def further(self, seed: int, smaller: Path | None = None, steps: int | None = None) -> list[str]:
        """Settings of further steps from the start, or from a smaller model, a model folder."""
        begin = f"init_from={smaller or self.start_of(seed)}"
        budget = [f"trainer.max_steps={steps or self.steps}", f"trainer.epochs={MANY_EPOCHS}"]
        return [f"seed={seed}", *self.corpus.further, begin, *budget, *self.settings_of(smaller)]

    def settings_of(self, sizes: Path | None) -> list[str]:
        """Settings of all runs; with the sizes of another model, a model folder, in place of this model's."""
        if sizes is None:
            return self.settings
        return [each for each in self.settings if not each.startswith("model")] + [f"model_of={sizes}"]

    def start_of(self, seed: int) -> Path:
        """The model folder or run with which a seed begins."""
        return self.start or self.run("start", seed)

    def compressed(self, run: Path, way: str, name: str, settings: Sequence[str]) -> Path:
        """The model folder that a pass makes of a run's model."""
        written = [f"run={run}", f"pass={way}", f"name={name}", *settings]
        self.trials.call(run, str(REPOSITORY / "scripts/compress.py"), *written)
        return RunFolder(run).export(name)

    def errors(self, run: Path, weights: Path | None = None) -> dict[str, ErrorCounts]:
        """Errors by utterance of a run's model, or of a model folder on a run's test set."""
        return self.trials.errors(run, ["unit_utterances=64"], "", weights)

    def run(self, name: str, seed: int) -> Path:
        """The folder of a run."""
        return self.trials.run(self.model, f"{slug(name)}-{seed}")


class Found:
    """The errors of a model's ways as they are measured, printed on the way."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.errors: dict[str, Errors] = {}

    def add(self, seed: int, found: Iterable[tuple[str, dict[str, ErrorCounts]]]) -> None:
        """Add the errors of a seed, by name of what has made them."""
        for name, each in found:
            self.errors.setdefault(name, {})["", seed] = each
            print(f"{self.model}, seed {seed}, {name}: {total(each).wer:.2%}", flush=True)


def slug(name: str) -> str:
    """The name of a folder, of a run as of a model."""
    return name.replace(", ", "_").replace(" ", "-").replace("/", "-").replace("%", "")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a study's command line says."""

    corpus: str
    models: list[str]
    seeds: list[int]
    start: Path | None
    json: Path | None
    deadline: float
    steps: int | None
    ways: list[str] | None
    trials: ForkedTrials
    settings: list[str]


def read_arguments(
    arguments: Sequence[str], description: str | None, folder: str, ways: Collection[str] = ()
) -> Arguments:
    """The options that all studies have, and where there are ``ways``, the names of what is compared, the choice of some and of their steps.

    Raises:
        UsageError: the corpus has no such model, or wants a start.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=CORPORA, default="fsdd")
    parser.add_argument("--models", nargs="+", choices=("lstm", "conformer"), help="these alone of the corpus's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--start", type=Path, help="a model folder at which all seeds begin; seeds are of the rest")
    parser.add_argument("--folder", type=Path, default=Path(folder), help="where the runs go")
    parser.add_argument("--data", action="append", default=[], help="a setting of all runs: data.root=data/fsdd")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.set_defaults(ways=None, steps=None)
    if ways:
        rows = "; ".join(ways).replace("%", "%%")
        parser.add_argument(
            "--ways", nargs="+", choices=ways, metavar="WAY", help=f"beside the control these alone: {rows}"
        )
        parser.add_argument("--steps", type=int, help="further steps of all; left out: the corpus's own number")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after so many no more are begun, but starts")
    parser.add_argument("--quick", action="store_true", help="a few steps of each, from one seed, in FOLDER/quick")
    options = parser.parse_args(arguments)
    corpus = CORPORA[options.corpus]
    models = options.models or list(corpus.models)
    if unknown := [each for each in models if each not in corpus.models]:
        raise UsageError(f"--models {unknown[0]}: on {options.corpus} there is {', '.join(corpus.models)}")
    if not corpus.start and options.start is None:
        raise UsageError(
            f"--corpus {options.corpus}: its start takes hours; name the model folder of a checkpoint that make model has "
            "trained with --start"
        )
    return Arguments(
        options.corpus,
        models,
        options.seeds[:1] if options.quick else options.seeds,
        options.start,
        options.json,
        time.monotonic() + 60 * options.minutes,
        options.steps,
        options.ways,
        ForkedTrials(1, options.folder.resolve() / ("quick" if options.quick else ""), "test"),
        [*options.data, *(QUICK if options.quick else ())],
    )


def save(
    path: Path, rows: Sequence[Mapping[str, Any]], made_with: Mapping[str, Any], seeds: Sequence[int], **remarks: Any
) -> None:
    """Save all rows; figures are word error rates and differences from the control."""
    compared = [each for each in rows if each["table"] == "against control"]
    figures = {f"wer/{each['model']}/{each['variant']}": each["wer"] for each in compared}
    figures |= {
        f"wer_difference/{each['model']}/{each['variant']}": each["difference"]
        for each in compared
        if each["variant"] != CONTROL
    }
    save_figures(path, figures, rows, made_with, seeds=list(seeds), **remarks)
