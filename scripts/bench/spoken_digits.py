"""What simulated learners train in benchmarks: a small network that classifies spoken digits from means of their features."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import adaptive_avg_pool1d, cross_entropy

from asr.data.audio import read_audio
from asr.data.features import LogMel
from asr.data.manifest import read_manifest
from asr.parts import build
from asr.training.precision import flush_denormals
from distributed.simulate.flat_model import FlatModel
from scripts.composition.compose import compose

MELS = 40
HIDDEN, MEANS = 40, 8


@dataclass(frozen=True, slots=True)
class Digits:
    """Inputs (N, D) and digits (N,) to train and to be tested on."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def parser_of(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that all benchmarks on spoken digits have; ``quick`` says what ``--quick`` does."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a clone of the Free Spoken Digit Dataset")
    parser.add_argument("--cache", default="data/fsdd-cache", help="where its manifests are made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def read_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """What a command line says, with one thread for what follows; ``--quick`` is of one seed."""
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds = options.seeds[:1]
    flush_denormals()
    torch.set_num_threads(1)
    return options


def read_digits(root: str, cache: str, means: int = MEANS) -> Digits:
    """Inputs of (40 mels) x (``means`` stretches of time); dev and test together are tested on.

    Each input has mean 0 and deviation 1 over the training set.
    """
    settings = ["data=fsdd_digits", f"data.root={root}", f"data.cache={cache}", f"features.num_mels={MELS}"]
    config = compose("train", settings)
    features, manifests = build(config.features), build(config.data).prepare()
    assert isinstance(features, LogMel)
    words = sorted({each.text for each in read_manifest(manifests["train"])})

    def read(split: str) -> tuple[Tensor, Tensor]:
        utterances = read_manifest(manifests[split])
        found = [features.mel(read_audio(each, features.sample_rate, resample=False)).T for each in utterances]
        inputs = torch.stack([adaptive_avg_pool1d(mels_FT[None], means)[0].flatten() for mels_FT in found])
        return inputs, torch.tensor([words.index(each.text) for each in utterances])

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


@torch.no_grad()
def error_of(module: nn.Module, model: FlatModel, weights_P: Tensor, digits: Digits) -> float:
    """Share of wrong digits at flat weights."""
    guessed = functional_call(module, model.views(weights_P), (digits.test[0],)).argmax(1)
    return float((guessed != digits.test[1]).double().mean())
