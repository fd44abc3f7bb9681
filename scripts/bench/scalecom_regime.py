"""Where sparse gradients lose nothing: learning rates, beta, rates and lengths of training around the two laws. Simulated.

    python scripts/bench/scalecom_regime.py --data data/fsdd --json docs/results/scalecom-regime.json

A small network (tanh, spoken digits, classified from eight means of their features) is trained by four simulated learners
with the arithmetic of the real scheme (distributed/simulate/): SGD with Nesterov momentum 0.9, the learning rate falling to 0
in a straight line, the first tenth of the steps dense. The mechanism is what is measured, not the size of the effect on a transducer. The
laws are those of distributed/sparse/regime.py.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from distributed.simulate.flat_model import FlatModel, gradients_by_vmap
from distributed.simulate.lockstep import Lockstep
from distributed.simulate.schemes import AllReduce, LockstepScheme, ScaleCom
from distributed.sparse.regime import payments
from scripts.bench.report import save_figures
from scripts.bench.spoken_digits import (
    Digits,
    criterion,
    error_of,
    network,
    parser_of,
    read_arguments,
    read_digits,
    weights_of,
)
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

LEARNERS, BATCH = 4, 16
WARM_UP = 0.1  # of the steps
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Setting:
    """A training; ``rate`` 1 is dense."""

    lr: float
    steps: int
    rate: int = 1
    beta: float = 1.0

    @property
    def scheme(self) -> str:
        """Its words in tables."""
        return "dense" if self.rate == 1 else f"rate {self.rate}, beta {self.beta:g}"


SCHEMES = ((1, 1.0), (100, 1.0), (100, 0.1), (400, 1.0), (400, 0.1))
LENGTHS = {
    0.05: (500, 6000),
    0.01: (500, 6000),
    0.003: (6000,),
}  # steps, by learning rate; 0.05 is near the dense limit
SETTINGS = [
    Setting(lr, steps, rate, beta)
    for lr, lengths in LENGTHS.items()
    for steps, (rate, beta) in product(lengths, SCHEMES)
]


def main(arguments: list[str]) -> None:
    """Train everything, print a table in Markdown, save the figures."""
    options = read_arguments(parser_of(__doc__, "twenty steps of each, from one seed"), arguments)
    made_with = environment()
    digits = read_digits(options.data, options.cache)
    rows = []
    for setting in SETTINGS:
        short = Setting(setting.lr, 20, setting.rate, setting.beta) if options.quick else setting
        rows.append(measured(short, digits, options.seeds))
        print(row_of(rows[-1]) if len(rows) > 1 else f"{TITLE}\n{row_of(rows[-1])}", flush=True)
    if options.json is not None:
        figures = {f"error/{row['lr']:g}/{row['steps']}/{row['scheme']}": row["error"] for row in rows}
        save_figures(options.json, figures, rows, made_with, learners=LEARNERS, batch=BATCH, weights=weights_of(digits))


TITLE = "| lr | steps | scheme | payments | errors by seed | errors | loss |\n|---|---|---|---|---|---|---|"


def row_of(row: Mapping[str, Any]) -> str:
    """A row of the table in Markdown."""
    each = ", ".join(f"{value:.1%}" for value in row["errors"])
    paid = "" if row["payments"] is None else f"{row['payments']:.2g}"
    return f"| {row['lr']:g} | {row['steps']} | {row['scheme']} | {paid} | {each} | {row['error']:.2%} | {row['loss']:.3f} |"


def trained(setting: Setting, digits: Digits, seed: int) -> tuple[float, float]:
    """Error and loss on what is tested, of the weights at the end."""
    torch.manual_seed(seed)
    module = network(digits)
    rates = {name: setting.rate for name, _ in module.named_parameters()}
    model = FlatModel(module, criterion, rates)
    warm_up = round(WARM_UP * setting.steps)
    scheme: LockstepScheme = AllReduce()
    if setting.rate > 1:
        scheme = ScaleCom(segments=model.segments, beta=setting.beta, warmup_steps=warm_up)
    learners = Lockstep(
        scheme=scheme,
        learners=LEARNERS,
        loss=model.loss,
        start_P=model.start_P,
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, setting.lr, momentum=MOMENTUM, nesterov=True),
        gradients=gradients_by_vmap,
    )
    inputs, labels = digits.train
    for step in range(setting.steps):
        learners.copies.set_rate(setting.lr * (1 - step / setting.steps))
        drawn = torch.randint(len(labels), (LEARNERS, BATCH))
        learners.step([(inputs[own], labels[own]) for own in drawn])
    with torch.no_grad():
        loss = float(model.loss(learners.copies.mean, digits.test))
    return error_of(module, model, learners.copies.mean, digits), loss


def measured(setting: Setting, digits: Digits, seeds: Sequence[int]) -> dict[str, Any]:
    """The row of a setting."""
    found = [trained(setting, digits, seed) for seed in seeds]
    compressed = setting.steps - round(WARM_UP * setting.steps)
    return {
        "lr": setting.lr,
        "steps": setting.steps,
        "scheme": setting.scheme,
        "payments": payments(compressed, setting.rate, setting.beta) if setting.rate > 1 else None,
        "lr_times_waiting": setting.lr / (1 - MOMENTUM) * setting.rate,
        "errors": [error for error, _ in found],
        "error": statistics.fmean(error for error, _ in found),
        "loss": statistics.fmean(loss for _, loss in found),
    }


if __name__ == "__main__":
    run_main(main)
