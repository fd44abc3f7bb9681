"""Word error rates of quantised recognisers: post-training, and after training with few bits, against full precision.

    python scripts/bench/quantization_wer.py --data data.root=data/fsdd --data data.cache=data/fsdd-cache \\
        --folder exp/quantization --json docs/results/quantization-wer.json

On connected digits of six speakers, official split, or on the demo's synthetic speech (``--corpus demo``). From every seed a model is
trained in full precision, or ``--start`` names one; all that is compared begins there and gets the same further steps, on the same batches, at the same decreasing rate: the control in full precision, and one run
for each way of quantising. Post-training quantisation is that of the control. Differences from the control are paired
by utterance (scripts/bench/paired.py); the ablation gives those from the way that differs in one thing. The same
command goes on where it was interrupted; ``--minutes`` compares what is there by then.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.decoding.wer import ErrorCounts
from asr.runs.run_folder import RunFolder
from scripts.bench.forked import ForkedTrials
from scripts.bench.paired import Errors, print_table, row, total
from scripts.bench.report import save_figures
from scripts.bench.trials import QUICK
from scripts.composition.environment import environment
from scripts.composition.startup import REPOSITORY, run_main

SHARED = [
    "backend=single",
    "evaluation.sets=[]",
    "trainer.memory_probe=false",
    "trainer.checkpoint_every=100",
    "logger=[]",
]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus and the models that are compared on it."""

    settings: Sequence[str]
    models: Mapping[str, Sequence[str]]
    start: Sequence[str]  # of the training that all begins with
    further: Sequence[str]  # of the steps after it


DECREASING = ["schedule.warmup_fraction=0", "schedule.final_factor=0.025"]
CORPORA = {
    "fsdd": Corpus(
        ["experiment=fsdd_connected", "data.train_strings=1600", "data.dev_strings=60"],
        {
            "lstm": ["model=lstm_tiny", "model.encoder.layers=3", "model.encoder.hidden=96"],
            "conformer": ["model=conformer_tiny"],
        },
        ["trainer.epochs=20"],  # 2,000 steps of 16 strings, as many as the recipe has
        ["trainer.max_steps=100", "optimizer.lr=0.001", *DECREASING],
    ),
    "demo": Corpus(
        ["experiment=demo", "batch.units=1"],
        {
            "lstm": ["model=lstm_tiny"],
            "conformer": ["model/predictor=stateless", "features._target_=asr.data.sherpa_features.SherpaLogMel"],
        },
        ["trainer.max_steps=700", "batch.units=2"],
        ["trainer.max_steps=40", "optimizer.lr=0.0005", *DECREASING],
    ),
}
CONTROL = "control"
FIRST_FP32 = '[{modules: "encoder.layers.0.*", bits: null}, {modules: "*"}]'
MAX = {"weights": "max", "inputs": "max", "hidden": "fixed"}
BAC = {"weights": "sawb", "inputs": "pact", "hidden": "fixed"}


@dataclass(frozen=True, slots=True)
class Way:
    """A way of quantising: settings of the hook qat_int4, or of the pass, beside the bits; steps are per gate or tensor."""

    settings: Mapping[str, str]
    bits: Mapping[str, Sequence[int]]  # by model, the bits that it is measured with; a model that is missing: none
    trained: bool = True
    differs_from: str | None = None  # the way of which one thing is changed
    changed: str = field(default="")

    def written(self, prefix: str, bits: int) -> list[str]:
        """Settings of the hook or pass called ``prefix``."""
        return [f"{prefix}.{key}={value}" for key, value in {"bits": bits, **self.settings}.items()]


ALL = (4, 3, 2, 8)  # bits, in the order in which they are measured
ABLATED = (4, 3)
ABLATION = ("sawb/max", "sawb/bac", "sawb+/bac+")
BOTH = {"lstm": ALL, "conformer": ALL}
WAYS = {
    "post-training max": Way(MAX, BOTH, trained=False),
    "post-training sawb": Way(MAX | {"weights": "sawb"}, {"lstm": (4, 3, 2), "conformer": (4, 3)}, trained=False),
    "max/max": Way(MAX, BOTH),
    "sawb/pact": Way(BAC | {"hidden": "pact_symmetric"}, BOTH, True, "sawb/max", "bounds of activations learned"),
    "sawb/bac, first layer fp32": Way(BAC | {"scheme": FIRST_FP32}, {"lstm": ALL}, True, "sawb/bac", "first layer fp32"),
    "sawb/max": Way(
        MAX | {"weights": "sawb"}, {"lstm": ABLATED, "conformer": ABLATED}, True, "max/max", "clip of weights"
    ),
    "sawb/bac": Way(BAC, {"lstm": ABLATED}, True, "sawb/pact", "hidden states' bound fixed to 1"),
    "sawb+/bac+": Way(
        BAC | {"weights": "sawb_plus", "inputs": "pact_plus"}, {"lstm": (3,)}, True, "sawb/bac",
        "gradients of the hook's defaults",
    ),
}  # fmt: skip


class Study:
    """Trains and evaluates everything that is compared for one model."""

    def __init__(
        self, trials: ForkedTrials, corpus: Corpus, model: str, settings: Sequence[str], start: Path | None
    ) -> None:
        self.trials = trials
        self.corpus = corpus
        self.model = model
        self.settings = [*corpus.settings, *SHARED, *corpus.models[model], *settings]
        self.start = start  # a model folder at which all seeds begin; None: each seed trains its own

    def ways(self) -> list[tuple[str, str, int]]:
        """The rows beside the control: name, way, bits."""
        return [
            (f"{way}, {bits} bits", way, bits) for way, each in WAYS.items() for bits in each.bits.get(self.model, ())
        ]

    def begun(self, seed: int) -> dict[str, dict[str, ErrorCounts]]:
        """Errors of the start and of the control of a seed."""
        start, control = self._run("start", seed), self._run(CONTROL, seed)
        if self.start is None:
            self.trials.train(start, f"seed={seed}", *self.settings, *self.corpus.start)
        self.trials.train(control, *self._further(seed))
        begun = self._errors(start) if self.start is None else self._errors(control, self.start)
        return {"start": begun, CONTROL: self._errors(control)}

    def quantised(
        self, seed: int, bits: int, deadline: float, *, ablation: bool
    ) -> Iterator[tuple[str, dict[str, ErrorCounts]]]:
        """Name and errors of each way that is measured with so many bits; what is trained already is not trained again.

        None is begun after the deadline. ``ablation``: those that are there to be differed from, which come last; else the others.
        """
        for name, way, of_bits in self.ways():
            if (of_bits, way in ABLATION) != (bits, ablation) or time.monotonic() > deadline:
                continue
            run = self._run(name, seed)
            if WAYS[way].trained:
                hook = ["+hooks=[qat_int4]", *WAYS[way].written("hooks.qat_int4", bits)]
                self.trials.train(run, *self._further(seed), *hook)
                yield name, self._errors(run)
            else:
                control = self._run(CONTROL, seed)
                written = [f"run={control}", "pass=int4", f"name={slug(name)}", *WAYS[way].written("pass", bits)]
                self.trials.call(control, str(REPOSITORY / "scripts/compress.py"), *written)
                yield name, self._errors(control, RunFolder(control).export(slug(name)))

    def _further(self, seed: int) -> list[str]:
        start = self._run("start", seed) if self.start is None else self.start
        return [f"seed={seed}", *self.settings, *self.corpus.further, f"init_from={start}"]

    def _errors(self, run: Path, weights: Path | None = None) -> dict[str, ErrorCounts]:
        return self.trials.errors(run, ["unit_utterances=64"], "", weights)

    def _run(self, name: str, seed: int) -> Path:
        return self.trials.run(self.model, f"{slug(name)}-{seed}")


def slug(name: str) -> str:
    """A name of a folder."""
    return name.replace(", ", "_").replace(" ", "-").replace("/", "-")


def main(arguments: list[str]) -> None:
    """Train and evaluate everything, print tables in Markdown, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=CORPORA, default="fsdd")
    parser.add_argument("--models", nargs="+", choices=("lstm", "conformer"), default=["lstm", "conformer"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--start", type=Path, help="a model folder at which all seeds begin; seeds are of the rest then"
    )
    parser.add_argument("--folder", type=Path, default=Path("exp/quantization"), help="where the runs go")
    parser.add_argument("--data", action="append", default=[], help="a setting of all runs: data.root=data/fsdd")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="after so many no more are begun, but for starts"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of each, from one seed, in FOLDER/quick")
    options = parser.parse_args(arguments)
    made_with = environment()
    trials = ForkedTrials(1, options.folder.resolve() / ("quick" if options.quick else ""), "test")
    settings = [*options.data, *(QUICK if options.quick else ())]
    seeds = options.seeds[:1] if options.quick else options.seeds
    deadline = time.monotonic() + 60 * options.minutes
    rows: list[dict[str, Any]] = []
    for model in options.models:
        study, errors = Study(trials, CORPORA[options.corpus], model, settings, options.start), dict[str, Errors]()
        # Bits by bits and seed by seed, so that whatever is there when it is interrupted can be compared.
        for number, (ablation, bits, seed) in enumerate(product((False, True), ALL, seeds)):
            if number < len(seeds):
                add(errors, model, seed, study.begun(seed).items())
            add(errors, model, seed, study.quantised(seed, bits, deadline, ablation=ablation))
        rows += rows_of(study, errors)
        if options.json is not None:
            save(options.json, rows, made_with, seeds, corpus=options.corpus, settings=study.settings)
        for kind in ("against control", "ablation"):
            print(f"\n{model}, {kind}")
            print_table([each for each in rows if (each["model"], each["table"]) == (model, kind)])


def add(errors: dict[str, Errors], model: str, seed: int, found: Iterable[tuple[str, dict[str, ErrorCounts]]]) -> None:
    """Add the errors of a seed as they are measured, and print the rates."""
    for name, each in found:
        errors.setdefault(name, {})["", seed] = each
        print(f"{model}, seed {seed}, {name}: {total(each).wer:.2%}", flush=True)


def rows_of(study: Study, errors: Mapping[str, Errors]) -> list[dict[str, Any]]:
    """Every row against the control, and against the row that differs in one thing."""
    model = {"model": study.model}

    def compared(name: str, settings: Sequence[str], other: str) -> dict[str, Any]:
        return row(name, settings, errors[name], {key: errors[other][key] for key in errors[name]})

    rows = [model | {"table": "against control"} | compared(name, [], CONTROL) for name in ("start", CONTROL)]
    ablation = []
    for name, way, bits in (each for each in study.ways() if each[0] in errors):
        each, described = WAYS[way], model | {"way": way, "bits": bits}
        own = [f"{key}={value}" for key, value in each.settings.items()]
        rows.append(described | {"table": "against control"} | compared(name, own, CONTROL))
        other = f"{each.differs_from}, {bits} bits"
        if errors[name].keys() <= errors.get(other, {}).keys():
            changed = {"table": "ablation", "against": other, "changed": each.changed}
            ablation.append(described | changed | compared(name, own, other))
    return [*rows, *ablation]


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


if __name__ == "__main__":
    run_main(main)
