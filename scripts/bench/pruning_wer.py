"""Word error rates of pruned recognisers: learned masks, with and without distillation, against magnitude, low rank and small models from nothing.

    python scripts/bench/pruning_wer.py --data data.root=data/fsdd --data data.cache=data/fsdd-cache \\
        --folder exp/quantization --json docs/results/pruning-wer.json

On the corpora, models and starts of scripts/bench/quantization_wer.py; in its folder they are trained once for both. All ways
get the same further steps as the control. Of masked models two thirds of them train the masks, then what is masked is
removed, with the same shift of all log-odds where the masks have not met their target (docs/methods/structured_pruning.md), and
the rest fine-tunes what is left; rows say what the masks came to by themselves.
Small models from nothing get the start's steps in place of further ones.
Sizes and times are of the first seed's encoders: processor time of one thread over 10 s of noise, all in turn.
The same command goes on where it was interrupted; ``--minutes`` compares what is there by then.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.decoding.wer import ErrorCounts
from asr.runs.checkpoint import model_folder_of
from asr.runs.metrics import read_rows
from asr.runs.run_folder import RunFolder
from scripts.bench.compression_study import CONTROL, CORPORA, Found, Study, read_arguments, save, slug
from scripts.bench.encoder_costs import encoder_costs
from scripts.bench.paired import print_table, row
from scripts.composition.environment import environment
from scripts.composition.startup import REPOSITORY, run_main

DISTILLATION = "layerwise_distillation"
KINDS_BUT_WIDTH = "[heads,feed_forward,channels,module,subsampling]"
ROUNDS = 3  # of iterative magnitude
RATES = ["mask_lr=0.1", "multiplier_lr=0.2"]  # the hook's own are for runs of tens of thousands of steps
EXPECTED = "structured_pruning/expected_ratio"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a smaller encoder."""

    kind: Literal["masks", "pass", "rounds", "from nothing"]
    settings: Sequence[str] = ()  # of the hook structured_pruning, or of the pass
    distilled: bool = False
    passed: str = ""  # the pass, where it is one
    sparsities: Sequence[float] = (0.5,)
    models: Sequence[str] = ("lstm", "conformer")


ALL = (0.5, 0.3, 0.7)  # fractions that are removed, in the order in which they are measured
FIRST_SEED_ALONE = (0.3, 0.7)
MASKED, MILLISECONDS = "masks, distilled", "masks by milliseconds, distilled"
WAYS = {
    MASKED: Way("masks", distilled=True, sparsities=ALL),
    "masks": Way("masks", sparsities=ALL),
    "magnitude": Way("pass", ["across=model"], passed="magnitude", sparsities=ALL),
    "magnitude, distilled": Way("pass", ["across=model"], True, "magnitude"),
    "magnitude, all sites alike": Way("pass", ["across=sites"], passed="magnitude"),
    "magnitude in three rounds": Way("rounds", ["across=model"], passed="magnitude"),
    "low rank": Way("pass", passed="low_rank", sparsities=(0.5, 0.3)),  # more than 64 % of the LSTM no factors can save
    MILLISECONDS: Way("masks", ["objective=milliseconds"], True),
    "masks by flops, distilled": Way("masks", ["objective=flops"], True),
    "masks, distilled, width whole": Way("masks", [f"kinds={KINDS_BUT_WIDTH}"], True, models=("conformer",)),
    "masks of heads alone, distilled": Way("masks", ["kinds=[heads]"], True, sparsities=(0.1,), models=("conformer",)),
    "sizes of the masks, from nothing": Way("from nothing"),
}


def row_name(way: str, sparsity: float) -> str:
    """The name of a way's row at a sparsity."""
    return f"{way}, {sparsity:.0%}"


CHOICES = [*WAYS, *(row_name(way, sparsity) for way, each in WAYS.items() for sparsity in each.sparsities)]


class PruningStudy(Study):
    """Makes models smaller, each way with the same further steps."""

    def ways(self) -> list[tuple[str, str, float]]:
        """The rows beside the control: name, way, sparsity."""
        return [
            (row_name(way, sparsity), way, sparsity)
            for way, each in WAYS.items()
            for sparsity in each.sparsities
            if self.model in each.models and (each.kind != "from nothing" or self.corpus.start)
            if self.chosen is None or {way, row_name(way, sparsity)} & set(self.chosen)
        ]

    def pruned(
        self, seed: int, *, first: bool, others: bool, deadline: float
    ) -> Iterator[tuple[str, dict[str, ErrorCounts]]]:
        """Name and errors of each way; none is begun after the deadline. ``others``: the sparsities of a first seed alone."""
        for name, way, sparsity in self.ways():
            if (sparsity in FIRST_SEED_ALONE) == others and (first or not others) and time.monotonic() < deadline:
                self.make(name, way, sparsity, seed)
                yield name, self.errors(self.run(name, seed))

    def make(self, name: str, way: str, sparsity: float, seed: int) -> None:
        """Train the small model of a way to its end, in the run of its name."""
        each, run, start = WAYS[way], self.run(name, seed), self.start_of(seed)
        distil = [f"+hooks=[{DISTILLATION}]", f"hooks.{DISTILLATION}.teacher={start}"] if each.distilled else []
        if each.kind == "masks":
            steps = self.steps * 2 // 3
            small = self._without_masked(name, each, sparsity, seed, steps)
            self.trials.train(run, *self.further(seed, small, self.steps - steps), *distil)
        elif each.kind == "from nothing":
            sizes = RunFolder(self.run(f"{MASKED}, {sparsity:.0%} masked", seed)).export("small")
            self.trials.train(run, f"seed={seed}", *self.corpus.start, *self.settings_of(sizes))
        else:
            self._by_pass(name, each, sparsity, seed, distil)

    def _without_masked(self, name: str, way: Way, sparsity: float, seed: int, steps: int) -> Path:
        masked, start = self.run(f"{name} masked", seed), self.start_of(seed)
        hooks = ["structured_pruning", *([DISTILLATION] if way.distilled else [])]
        cost = list(way.settings) if way.settings and way.settings[0].startswith("objective") else []
        if "objective=milliseconds" in cost:
            cost.append(f"latency={self.latency(seed)}")
        of_hook = [f"sparsity={sparsity}", *RATES, *dict.fromkeys([*way.settings, *cost])]
        settings = [f"hooks.structured_pruning.{each}" for each in of_hook]
        if way.distilled:
            settings.append(f"hooks.{DISTILLATION}.teacher={start}")
        self.trials.train(masked, *self.further(seed, steps=steps), f"+hooks=[{','.join(hooks)}]", *settings)
        removal = [f"pass.{each}" for each in (f"sparsity={sparsity}", *cost)]
        return self.compressed(masked, "prune", "small", ["checkpoint=last", *removal])

    def masks_kept(self, name: str, way: str, seed: int) -> float | None:
        """The fraction of their cost that the masks of a way came to keep by themselves; None of other ways."""
        if WAYS[way].kind != "masks":
            return None
        masked = RunFolder(self.run(f"{name} masked", seed))
        return [float(each[EXPECTED]) for each in read_rows(masked.metrics_of(0)) if EXPECTED in each][-1]

    def _by_pass(self, name: str, way: Way, sparsity: float, seed: int, distil: Sequence[str]) -> None:
        rounds = ROUNDS if way.kind == "rounds" else 1
        part = 1 - (1 - sparsity) ** (1 / rounds)
        before, steps = self.run(CONTROL, seed), self.steps // rounds
        first = [f"weights={model_folder_of(self.start_of(seed), 'weights')}"]  # of a start, that need be no run
        for number in range(rounds):
            settings = [f"pass.{each}" for each in (f"sparsity={part}", *way.settings)]
            small = self.compressed(
                before, way.passed, f"{slug(name)}-{number}", settings + (first if number == 0 else [])
            )
            last = number == rounds - 1
            run = self.run(name if last else f"{name} round {number}", seed)
            self.trials.train(run, *self.further(seed, small, steps), *distil)
            before = run

    def latency(self, seed: int) -> Path:
        """The table of latencies of the start's encoder, measured once on this processor, in a process of its own."""
        file = self.run("latency", 0).with_suffix(".json")
        if not file.is_file():
            script = str(REPOSITORY / "scripts/bench/latency.py")
            of = ["--weights", str(self.start_of(seed)), "--json", str(file)]
            subprocess.run([sys.executable, script, *of], check=True)
        return file


def main(arguments: list[str]) -> None:
    """Train and evaluate everything, print tables in Markdown, save the figures."""
    options = read_arguments(arguments, __doc__, "exp/quantization", CHOICES)
    made_with = environment()
    corpus = CORPORA[options.corpus]
    steps = options.steps or corpus.pruning_steps
    studies: list[tuple[PruningStudy, Found]] = []
    for model in options.models:
        study = PruningStudy(options.trials, corpus, model, options.settings, steps, options.start, options.ways)
        found = Found(model)
        for others in (False, True):
            for number, seed in enumerate(options.seeds):
                if not others:
                    found.add(seed, study.begun(seed).items())
                found.add(seed, study.pruned(seed, first=number == 0, others=others, deadline=options.deadline))
        studies.append((study, found))
    # Measured at the end: processes that are forked from one that has computed may not compute.
    rows = [each for study, found in studies for each in rows_of(study, found, options.seeds[0])]
    for model in options.models:
        print(f"\n{model}")
        print_table([each for each in rows if each["model"] == model])
    if options.json is not None:
        save(
            options.json, rows, made_with, options.seeds,
            corpus=options.corpus, steps=steps, settings=studies[0][0].settings,
        )  # fmt: skip


def rows_of(study: PruningStudy, found: Found, seed: int) -> list[dict[str, Any]]:
    """Every row against the control, with sizes and times of the encoders of a seed."""
    names = list(found.errors)
    runs = {name: study.start_of(seed) if name == "start" else study.run(name, seed) for name in names}
    costs = encoder_costs({name: model_folder_of(run, "weights") for name, run in runs.items()})
    baseline = found.errors[CONTROL]
    kept = {name: study.masks_kept(name, way, seed) for name, way, _ in study.ways() if name in names}
    return [
        {"model": study.model, "table": "against control"}
        | row(name, [], found.errors[name], {key: baseline[key] for key in found.errors[name]})
        | costs[name]
        | ratios(costs[name], costs[CONTROL])
        | {"masks_kept": kept.get(name)}
        for name in names
    ]


def ratios(own: Mapping[str, float], control: Mapping[str, float]) -> dict[str, float]:
    """What is left of the control's encoder."""
    return {f"{key}_ratio": own[key] / control[key] for key in own}


if __name__ == "__main__":
    run_main(main)
