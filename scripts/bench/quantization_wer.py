"""Word error rates of quantised recognisers: post-training, and after training with few bits, against full precision.

    python scripts/bench/quantization_wer.py --data data.root=data/fsdd --data data.cache=data/fsdd-cache \\
        --folder exp/quantization --json docs/results/quantization-wer.json

On connected digits of six speakers, official split, or on the demo's synthetic speech (``--corpus demo``). From every seed a model is
trained in full precision, or ``--start`` names one; all that is compared begins there and gets the same further steps, on the same batches, at the same decreasing rate: the control in full precision, and one run
for each way of quantising. Post-training quantisation is that of the control. Differences from the control are paired
by utterance (scripts/bench/paired.py); the ablation gives those from the way that differs in one thing. The same
command goes on where it was interrupted; ``--minutes`` compares what is there by then.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.decoding.wer import ErrorCounts
from scripts.bench.compression_study import CONTROL, CORPORA, Found, Study, read_arguments, save, slug
from scripts.bench.paired import Errors, print_table, row
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

SUBSAMPLING_8 = '[{modules: "encoder.subsample.*", bits: 8}, {modules: "*"}]'  # what a Conformer begins with
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


ALL = (4, 3, 2, 8)  # bits, of which a corpus has some
ABLATED = (4, 3)
ABLATION = ("sawb/max", "sawb/bac", "sawb+/bac+")
BOTH = {"lstm": ALL, "conformer": ALL}
WAYS = {
    "post-training max": Way(MAX, BOTH, trained=False),
    "post-training sawb": Way(MAX | {"weights": "sawb"}, {"lstm": (4, 3, 2), "conformer": (4, 3)}, trained=False),
    "max/max": Way(MAX, BOTH),
    "sawb/pact": Way(BAC | {"hidden": "pact_symmetric"}, BOTH, True, "sawb/max", "bounds of activations learned"),
    "sawb/pact, subsampling 8 bits": Way(
        BAC | {"hidden": "pact_symmetric", "scheme": SUBSAMPLING_8}, {"conformer": (4, 3)}, True, "sawb/pact", "subsampling at 8 bits"
    ),
    "sawb+/pact+": Way(
        {"weights": "sawb_plus", "inputs": "pact_plus", "hidden": "pact_plus_symmetric"}, {"conformer": (4, 3)}, True, "sawb/pact",
        "gradients of the hook's defaults",
    ),
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


def row_name(way: str, bits: int) -> str:
    """The name of a way's row with so many bits."""
    return f"{way}, {bits} bits"


CHOICES = [
    *WAYS,
    *(row_name(way, bits) for way, each in WAYS.items() for bits in sorted({*chain(*each.bits.values())})),
]


class QuantizationStudy(Study):
    """Trains with few bits, and quantises the control."""

    def ways(self) -> list[tuple[str, str, int]]:
        """The rows beside the control: name, way, bits."""
        return [
            (row_name(way, bits), way, bits)
            for way, each in WAYS.items()
            for bits in each.bits.get(self.model, ())
            if self.chosen is None or {way, row_name(way, bits)} & set(self.chosen)
        ]

    def quantised(
        self, seed: int, bits: int, deadline: float, *, ablation: bool
    ) -> Iterator[tuple[str, dict[str, ErrorCounts]]]:
        """Name and errors of each way that is measured with so many bits; what is trained already is not trained again.

        None is begun after the deadline. ``ablation``: those that are there to be differed from, which come last; else the others.
        """
        for name, way, of_bits in self.ways():
            if (of_bits, way in ABLATION) != (bits, ablation) or time.monotonic() > deadline:
                continue
            run, settings = self.run(name, seed), WAYS[way].written
            if WAYS[way].trained:
                hook = ["+hooks=[qat_int4]", *settings("hooks.qat_int4", bits)]
                self.trials.train(run, *self.further(seed), *hook)
                yield name, self.errors(run)
            else:
                control = self.run(CONTROL, seed)
                yield name, self.errors(control, self.compressed(control, "int4", slug(name), settings("pass", bits)))


def main(arguments: list[str]) -> None:
    """Train and evaluate everything, print tables in Markdown, save the figures."""
    options = read_arguments(arguments, __doc__, "exp/quantization", CHOICES)
    made_with = environment()
    corpus = CORPORA[options.corpus]
    steps = options.steps or corpus.quantisation_steps
    rows: list[dict[str, Any]] = []
    for model in options.models:
        study = QuantizationStudy(options.trials, corpus, model, options.settings, steps, options.start, options.ways)
        found = Found(model)
        # Bits by bits and seed by seed, so that whatever is there when it is interrupted can be compared.
        for number, (ablation, bits, seed) in enumerate(product((False, True), corpus.bits, options.seeds)):
            if number < len(options.seeds):
                found.add(seed, study.begun(seed).items())
            found.add(seed, study.quantised(seed, bits, options.deadline, ablation=ablation))
        rows += rows_of(study, found.errors)
        if options.json is not None:
            save(
                options.json, rows, made_with, options.seeds,
                corpus=options.corpus, steps=steps, settings=study.settings,
            )  # fmt: skip
        for kind in ("against control", "ablation"):
            print(f"\n{model}, {kind}")
            print_table([each for each in rows if (each["model"], each["table"]) == (model, kind)])


def rows_of(study: QuantizationStudy, errors: Mapping[str, Errors]) -> list[dict[str, Any]]:
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
        other = row_name(str(each.differs_from), bits)
        if errors[name].keys() <= errors.get(other, {}).keys():
            changed = {"table": "ablation", "against": other, "changed": each.changed}
            ablation.append(described | changed | compared(name, own, other))
    return [*rows, *ablation]


if __name__ == "__main__":
    run_main(main)
