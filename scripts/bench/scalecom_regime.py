"""Where sparse gradients lose nothing: learning rates, beta, rates and lengths of training around the two laws. Simulated.

    python scripts/bench/scalecom_regime.py --data data/fsdd --json docs/results/scalecom-regime.json

A small network (tanh, spoken digits, classified from eight means of their features) is trained by four simulated learners
with the arithmetic of the real scheme (distributed/simulate/): SGD with Nesterov momentum 0.9, the learning rate falling to 0
in a straight line, the first tenth of the steps dense. The mechanism is what is measured, not the size of the effect on a transducer. The
laws are those of distributed/sparse/regime.py.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, cross_entropy

from asr.data.audio import read_audio
from asr.data.features import LogMel
from asr.data.manifest import read_manifest
from asr.parts import build
from asr.training.precision import flush_denormals
from distributed.simulate.flat_model import FlatModel, gradients_by_vmap
from distributed.simulate.lockstep import Lockstep
from distributed.simulate.schemes import AllReduce, LockstepScheme, ScaleCom
from distributed.sparse.regime import payments
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

LEARNERS, BATCH, HIDDEN, MEANS = 4, 16, 40, 8
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


@dataclass(frozen=True, slots=True)
class Digits:
    """Inputs (N, D) and digits (N,) to train and to be tested on."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def main(arguments: list[str]) -> None:
    """Train everything, print a table in Markdown, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a clone of the Free Spoken Digit Dataset")
    parser.add_argument("--cache", default="data/fsdd-cache", help="where its manifests are made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="twenty steps of each, from one seed")
    options = parser.parse_args(arguments)
    flush_denormals()
    torch.set_num_threads(1)
    made_with = environment()
    digits = read_digits(options.data, options.cache)
    rows = []
    for setting in SETTINGS:
        short = Setting(setting.lr, 20, setting.rate, setting.beta) if options.quick else setting
        rows.append(measured(short, digits, options.seeds[:1] if options.quick else options.seeds))
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


def read_digits(root: str, cache: str) -> Digits:
    """The official split; dev and test together are tested on. Each input has mean 0 and deviation 1 over the training set."""
    settings = ["data=fsdd_digits", f"data.root={root}", f"data.cache={cache}", "features.num_mels=40"]
    config = compose("train", settings)
    features, manifests = build(config.features), build(config.data).prepare()
    assert isinstance(features, LogMel)
    words = sorted({each.text for each in read_manifest(manifests["train"])})

    def read(split: str) -> tuple[Tensor, Tensor]:
        utterances = read_manifest(manifests[split])
        found = [features.mel(read_audio(each, features.sample_rate, resample=False)).T for each in utterances]
        means = torch.stack([adaptive_avg_pool1d(mels_FT[None], MEANS)[0].flatten() for mels_FT in found])
        return means, torch.tensor([words.index(each.text) for each in utterances])

    (train, labels), dev, test = read("train"), read("dev"), read("test")
    mean_D, deviation_D = train.mean(0), train.std(0)
    tested = torch.cat([dev[0], test[0]])
    return Digits(
        ((train - mean_D) / deviation_D, labels),
        ((tested - mean_D) / deviation_D, torch.cat([dev[1], test[1]])),
    )


def network(digits: Digits) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(digits.train[0].shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10))


def weights_of(digits: Digits) -> int:
    """Number of weights of the network."""
    return sum(each.numel() for each in network(digits).parameters())


def criterion(call: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean cross entropy of a batch."""
    return cross_entropy(call(batch[0]), batch[1])


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
        views = model.views(learners.copies.mean)
        found = torch.func.functional_call(module, views, (digits.test[0],)).argmax(1)
    return float((found != digits.test[1]).double().mean()), loss


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
