"""A training step of a whole transducer, forward and backward: ours and models made of other toolkits' parts.

    python scripts/bench/throughput.py --json docs/results/throughput.json [--quick]

The contenders take turns in one process of one thread; times are medians of processor time, which other load on the
machine changes less than the clock's, and what counts are ratios. All have the same sizes, prediction network and joiner,
which are ours, no CTC head and dropout of 0.1.

    ours                the model of conf/model, with the exact loss
    torchaudio_parts    our subsampling, of torch's convolutions, torchaudio's Conformer and its loss on all logits
    torchaudio_recipe   as its LibriSpeech recipe: stacked frames, its Conformer and its loss
    speechbrain         its front end, its Conformer with relative positions, torchaudio's loss; left out if it is not installed

Before it is measured each contender makes a step of the same batch, in which kernels are compiled. The process keeps memory that
is freed, as training does with ours; the others, whose own scripts do not, gain by it too. ``share_of_peak`` is the
rate of the multiplications of our matrix products and convolutions over the rate of a large product in the same rounds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from asr.data.batch import Batch
from asr.losses.unfused import TorchaudioLoss
from asr.models.transducer import Transducer
from asr.parts import build
from asr.training.allocator import keep_freed_memory
from asr.training.precision import choose_matmul, flush_denormals
from scripts.bench.other_encoders import (
    OtherEncoder,
    Sizes,
    SpeechBrainEncoder,
    TorchaudioEncoder,
    TorchaudioRecipe,
    has_speechbrain,
)
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.startup import run_main

FEATURE_DIMENSION = 80
OURS = "ours"
OTHERS: dict[str, type[OtherEncoder]] = {
    "torchaudio_parts": TorchaudioEncoder,
    "torchaudio_recipe": TorchaudioRecipe,
    "speechbrain": SpeechBrainEncoder,
}
PEAK_SIZE = 1024  # rows and columns of the product whose rate is the peak


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured."""

    model: str
    lengths: str  # even, or ragged: uniform between half and full
    batch: int
    seconds: float
    labels: int
    classes: int

    @property
    def name(self) -> str:
        """For figures."""
        return f"{self.model}-{self.lengths}"


def main(arguments: list[str]) -> None:
    """Print a table in Markdown, row by row, and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="short utterances of the tiny model, two rounds")
    parser.add_argument("--models", nargs="+", default=["conformer_s", "conformer_m"], help="of conf/model: Conformers")
    parser.add_argument("--lengths", nargs="+", default=["even", "ragged"], choices=["even", "ragged"])
    parser.add_argument("--batch", type=int, default=8, help="utterances")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the longest utterance")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each contender")
    chosen = parser.parse_args(arguments)
    flush_denormals()
    keep_freed_memory()
    torch.set_num_threads(1)
    print(choose_matmul("auto"))
    if not has_speechbrain():
        print("speechbrain is left out: it is not installed (pip install speechbrain)")
    if chosen.quick:
        cases, rounds = [Case("conformer_tiny", "ragged", 2, 2.0, 5, 29)], 2
    else:
        cases = [
            Case(model, lengths, chosen.batch, chosen.seconds, round(4 * chosen.seconds), 500)
            for model in chosen.models
            for lengths in chosen.lengths
        ]
        rounds = chosen.rounds
    print(
        "| model, lengths | contender | step | audio s/s | ours is faster | loss | share of peak |\n|---|---|---|---|---|---|---|"
    )
    rows = []
    for case in cases:
        measured = measure(case, rounds)
        print("\n".join(map(line, measured)), flush=True)
        rows += measured
    if chosen.json is not None:
        save_figures(chosen.json, figures(rows), rows)


def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """One row for each contender."""
    batch, models = batch_of(case), contenders(case)
    losses = {name: step(model, batch) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    peaks = []
    for _ in range(rounds):
        peaks.append(peak_rate())
        for name, model in models.items():
            seconds[name].append(timed(lambda model=model: step(model, batch)))  # type: ignore[misc]
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    rate = flops(models[OURS], batch) / medians[OURS]
    return [
        {
            "case": case.name,
            "contender": name,
            "seconds": medians[name],
            "all_seconds": seconds[name],
            "audio_seconds_per_second": batch.audio_seconds / medians[name],
            "time_over_ours": medians[name] / medians[OURS],
            "loss": losses[name] / len(batch.utterance_ids),
            "share_of_peak": rate / statistics.median(peaks) if name == OURS else None,
        }
        for name in models
    ]


def contenders(case: Case) -> dict[str, Transducer]:
    """The models, ours first."""
    config = compose("train", [f"model={case.model}", "model.ctc_weight=0"])
    others = {name: kind for name, kind in OTHERS.items() if name != "speechbrain" or has_speechbrain()}
    return {OURS: ours(config, case)} | {name: of_parts(kind, config, case) for name, kind in others.items()}


def ours(config: DictConfig, case: Case) -> Transducer:
    """Our model, with initial weights of a fixed seed."""
    torch.manual_seed(0)
    model: Transducer = build(config.model, vocabulary_size=case.classes, feature_dimension=FEATURE_DIMENSION)
    return model.train()


def of_parts(kind: type[OtherEncoder], config: DictConfig, case: Case) -> Transducer:
    """Our model with another encoder, in the sizes of ours, and torchaudio's loss."""
    encoder, model = config.model.encoder, ours(config, case)
    model.encoder = kind(
        Sizes(
            features=FEATURE_DIMENSION,
            layers=encoder.layers,
            dimension=encoder.dimension,
            heads=encoder.heads,
            width=encoder.expansion * encoder.dimension,
            kernel=encoder.kernel,
            channels=encoder.subsampling_channels,
            dropout=encoder.dropout,
        )
    )
    model.loss = TorchaudioLoss()
    return model.train()


def batch_of(case: Case) -> Batch:
    """Noise in place of features, whose values cost nothing, and random labels; labels are as many per second in all utterances."""
    rng = torch.Generator().manual_seed(0)
    frames = round(100 * case.seconds)
    shares_B = torch.ones(case.batch)
    if case.lengths == "ragged":
        shares_B[1:] -= torch.rand(case.batch - 1, generator=rng) / 2
    targets_BU = torch.randint(1, case.classes, (case.batch, case.labels), generator=rng)
    lengths_B = (shares_B * frames).long()
    return Batch(
        utterance_ids=[str(index) for index in range(case.batch)],
        features=torch.randn(case.batch, frames, FEATURE_DIMENSION, generator=rng),
        feature_lengths=lengths_B,
        targets=targets_BU,
        target_lengths=(shares_B * case.labels).long(),
        predictor_inputs=targets_BU,
        weight=float(case.batch),
        audio_seconds=float(lengths_B.sum()) / 100,
    )


def step(model: Transducer, batch: Batch) -> float:
    """The loss of the batch; gradients are computed anew."""
    model.zero_grad()
    total = model(batch).total
    total.backward()
    return float(total.detach())


def timed(work: Callable[[], Any]) -> float:
    """Processor time in seconds that ``work`` takes on this thread."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def peak_rate() -> float:
    """Operations per second of a large matrix product, two a multiplication: the best of three."""
    left, right = torch.ones(2, PEAK_SIZE, PEAK_SIZE)
    return 2 * PEAK_SIZE**3 / min(timed(lambda: left @ right) for _ in range(3))


def flops(model: Transducer, batch: Batch) -> int:
    """Operations of a step's matrix products and convolutions; the prediction network's LSTM is not counted."""
    with FlopCounterMode(display=False) as counter:
        step(model, batch)
    return counter.get_total_flops()


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How much longer the contenders' steps take than ours; keys without a case are those of the first one."""
    first, found = rows[0]["case"], dict[str, float]()
    for row in rows:
        suffixes = [f"/{row['case']}", *([""] if row["case"] == first else [])]
        for suffix in suffixes:
            if row["contender"] == OURS:
                found[f"share_of_peak{suffix}"] = row["share_of_peak"]
                found[f"audio_seconds_per_second{suffix}"] = row["audio_seconds_per_second"]
            else:
                found[f"train_step_ratio/{row['contender']}{suffix}"] = row["time_over_ours"]
    return found


def line(row: Mapping[str, Any]) -> str:
    """A row of the table in Markdown."""
    share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
    return (
        f"| {row['case']} | {row['contender']} | {row['seconds']:.2f} s | {row['audio_seconds_per_second']:.1f} | "
        f"{row['time_over_ours']:.2f} | {row['loss']:.1f} | {share} |"
    )


if __name__ == "__main__":
    run_main(main)
