"""Joiner and transducer loss, forward and backward, against torchaudio's loss behind the same joiner.

    python scripts/bench/rnnt_loss.py --run exp/demo --json docs/results/rnnt-loss.json

One thread, both on the same path of fp32 matrix products, interleaved in one run, medians of processor time. Lengths
are uniform between half and full. ``random`` inputs are states of an untrained model; ``trained`` ones are lattices of
the run, with its classes and joint dimensions. The floor is the time of our own matrix products, all cells in backward,
at the rate measured in the same rounds. Peak memory is measured in a process for each method. The pruned loss, another
objective, has its first pass fitted to the states that it is measured on; its loss error is the excess of its second
pass.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.losses.alignment import lattice_arcs, lattice_occupancy
from asr.losses.inputs import LossInputs
from asr.losses.pruned import PrunedLoss, PrunedTransducerLoss
from asr.losses.rnnt import ExactLoss
from asr.losses.unfused import TorchaudioLoss
from asr.parts import build
from asr.training.precision import choose_matmul, flush_denormals
from scripts.bench.memory import peak_extra_bytes
from scripts.bench.report import save_figures
from scripts.bench.trained_states import trained_states
from scripts.composition.compose import compose
from scripts.composition.startup import run_main

HEADLINE = (8, 200, 40, 500, 512)
GRID = ((8, 200, 40, 29, 256), (8, 200, 40, 1024, 320), (4, 400, 80, 500, 512), (16, 60, 12, 500, 512))
QUICK = (4, 100, 20, 500, 512)
ALL_CELLS = "ours fp32, all cells"  # also in backward; the floor refers to this method
PRUNED = "ours fp32, pruned"
FITTING_STEPS = 60  # steps that fit the pruned loss's first pass; its best windows are found in fewer

Method = Callable[[LossInputs], Tensor]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The largest sizes of a batch."""

    batch: int
    frames: int
    labels: int
    classes: int
    joint: int


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="smaller, in less than a minute")
    parser.add_argument("--run", type=Path, help="a trained run's folder: adds its lattices to the measurement")
    parser.add_argument("--rounds", type=int, default=None, help="measurements of each method, interleaved")
    options = parser.parse_args(arguments)
    flush_denormals()
    torch.set_num_threads(1)
    print(choose_matmul("auto"))
    rounds = options.rounds or (3 if options.quick else 7)
    headline = Sizes(*(QUICK if options.quick else HEADLINE))
    rows = measure("random", random_inputs(headline), rounds)
    if options.run is not None:
        trained = trained_states(options.run, batch=headline.batch, classes=headline.classes, joint=headline.joint)
        rows += measure("trained", trained, rounds)
    for sizes in () if options.quick else GRID:
        rows += measure("random", random_inputs(Sizes(*sizes)), max(3, rounds // 2))
    report(rows)
    if options.json is not None:
        save_figures(options.json, figures(rows), rows)


def random_inputs(sizes: Sizes) -> LossInputs:
    """States of an untrained model: the same for the same sizes."""
    rng = torch.Generator().manual_seed(0)
    frames_B = torch.randint(sizes.frames // 2, sizes.frames + 1, (sizes.batch,), generator=rng)
    labels_B = torch.randint(sizes.labels // 2, sizes.labels + 1, (sizes.batch,), generator=rng)
    frames_B[0], labels_B[0] = sizes.frames, sizes.labels
    return LossInputs(
        encoder_BTJ=torch.randn(sizes.batch, sizes.frames, sizes.joint, generator=rng),
        predictor_BSJ=torch.randn(sizes.batch, sizes.labels + 1, sizes.joint, generator=rng),
        weight_VJ=torch.randn(sizes.classes, sizes.joint, generator=rng) / sizes.joint**0.5,
        bias_V=torch.zeros(sizes.classes),
        targets_BU=torch.randint(1, sizes.classes, (sizes.batch, sizes.labels), generator=rng),
        encoder_lengths_B=frames_B,
        target_lengths_B=labels_B,
        combine="add",
        blank=BLANK,
    )


def with_tensors(inputs: LossInputs, tensors: list[Tensor]) -> LossInputs:
    """The inputs with other encoder states and predictions, and the same lattices."""
    encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = tensors
    return replace(inputs, encoder_BTJ=encoder_BTJ, predictor_BSJ=predictor_BSJ, weight_VJ=weight_VJ, bias_V=bias_V)


@cache
def default_loss() -> ExactLoss:
    """The loss as configured by default."""
    loss: ExactLoss = build(compose("train", []).model.loss)
    return loss


def ours(inputs: LossInputs) -> Tensor:
    """Our loss with the default settings."""
    return default_loss()(inputs)


def ours_unskipped(inputs: LossInputs) -> Tensor:
    """Our loss with all cells in backward."""
    return replace(default_loss(), min_occupancy=0.0)(inputs)


def ours_bf16(inputs: LossInputs) -> Tensor:
    """Our loss, its matrix products in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        return default_loss()(inputs)


def fitted_pruned(inputs: LossInputs) -> PrunedTransducerLoss:
    """The pruned loss with the default settings, the joiner of its first pass trained on ``inputs``."""
    settings: PrunedLoss = build(compose("train", ["model/loss=pruned"]).model.loss)
    torch.manual_seed(0)
    classes, joint = inputs.weight_VJ.shape
    loss = settings.sized(joint=joint, classes=classes)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    for _ in range(FITTING_STEPS):
        optimizer.zero_grad()
        loss.passes(inputs).simple_B.sum().backward()
        optimizer.step()
    return loss


METHODS: dict[str, Method] = {
    "torchaudio fp32": TorchaudioLoss(),
    "ours fp32": ours,
    "ours bf16": ours_bf16,
    ALL_CELLS: ours_unskipped,
}


def forward_backward(method: Method, inputs: LossInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Losses and the gradients of their sum; those of a method's own parameters are computed too."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs.tensors]
    loss_B = method(with_tensors(inputs, leaves))
    loss_B.sum().backward()
    return loss_B.detach(), tuple(leaf.grad for leaf in leaves if leaf.grad is not None)


def measure(occupancy: str, inputs: LossInputs, rounds: int) -> list[dict[str, Any]]:
    """One row per method."""
    exact = forward_backward(ours_unskipped, with_tensors(inputs, [tensor.double() for tensor in inputs.tensors]))
    pruned = fitted_pruned(inputs)
    methods: dict[str, Method] = {**METHODS, PRUNED: pruned}
    seconds: dict[str, list[float]] = {name: [] for name in (*methods, "floor")}
    for method in methods.values():
        forward_backward(method, inputs)  # oneDNN compiles its kernels
    for _ in range(rounds):
        for name, method in methods.items():
            seconds[name].append(timed(partial(forward_backward, method, inputs)))
        seconds["floor"].append(floor_seconds(inputs))
    baseline = statistics.median(seconds["torchaudio fp32"])
    few, rows = first_frames(inputs, 4), []
    for name, method in methods.items():
        median = statistics.median(seconds[name])
        loss_B, gradients = forward_backward(method, inputs)
        if name == PRUNED:
            loss_B = pruned.passes(inputs).pruned_B.detach()
        rows.append(
            {
                "occupancy": occupancy,
                "method": name,
                "sizes": sizes_of(inputs),
                "kept": kept_fraction(inputs),
                "seconds": median,
                "speed_vs_torchaudio": baseline / median,
                "over_floor": median / statistics.median(seconds["floor"]) if name == ALL_CELLS else None,
                "extra_bytes": peak_extra_bytes(
                    partial(forward_backward, method, inputs), rehearsal=partial(forward_backward, method, few)
                ),
                "loss_error": relative_error(loss_B, exact[0]),
                "gradient_error": None if name == PRUNED else max(map(relative_error, gradients, exact[1])),
            }
        )
    return rows


def first_frames(inputs: LossInputs, frames: int) -> LossInputs:
    """The inputs cut to their first frames."""
    return replace(
        inputs,
        encoder_BTJ=inputs.encoder_BTJ[:, :frames],
        encoder_lengths_B=inputs.encoder_lengths_B.clamp(max=frames),
    )


def sizes_of(inputs: LossInputs) -> dict[str, int]:
    """The sizes that a row is labelled with."""
    (batch, frames, joint), (classes, _) = inputs.encoder_BTJ.shape, inputs.weight_VJ.shape
    cells = int((inputs.encoder_lengths_B * (inputs.target_lengths_B + 1)).sum())
    labels = inputs.targets_BU.shape[1]
    return {"batch": batch, "frames": frames, "labels": labels, "classes": classes, "joint": joint, "cells": cells}


def kept_fraction(inputs: LossInputs) -> float:
    """The fraction of cells that backward visits."""
    occupancy_BTS = lattice_occupancy(lattice_arcs(inputs))
    return int((occupancy_BTS >= default_loss().min_occupancy).sum()) / sizes_of(inputs)["cells"]


def timed(work: Callable[[], Any]) -> float:
    """Processor time in seconds that ``work`` takes on this thread, which other load on the machine does not change."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def floor_seconds(inputs: LossInputs) -> float:
    """Time of nothing but our matrix products: logits of every cell twice, and two products with their gradient."""
    rows, classes, joint = 1024, *inputs.weight_VJ.shape
    hidden_nJ, gradient_nV = torch.randn(rows, joint), torch.randn(rows, classes)
    products: list[Callable[[], Tensor]] = [
        lambda: hidden_nJ @ inputs.weight_VJ.t(),
        lambda: gradient_nV @ inputs.weight_VJ,
        lambda: gradient_nV.t() @ hidden_nJ,
    ]
    logits, states, weight = (min(timed(product) for _ in range(3)) for product in products)
    return sizes_of(inputs)["cells"] / rows * (2 * logits + states + weight)


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Euclidean error of the whole tensor, relative to its norm."""
    return float((value.double() - exact.double()).norm() / exact.double().norm())


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The results for the headline sizes."""
    of = {(row["occupancy"], row["method"]): row for row in reversed(rows)}  # the headline comes first
    theirs, fp32, bf16, all_cells = (of["random", name] for name in METHODS)
    figures = {
        "time_ratio_vs_torchaudio": fp32["speed_vs_torchaudio"],
        "memory_ratio_vs_torchaudio": theirs["extra_bytes"] / fp32["extra_bytes"],
        "max_relative_error": max(fp32["loss_error"], fp32["gradient_error"]),
        "time_over_gemm_floor": all_cells["over_floor"],
        "time_ratio_bf16": bf16["speed_vs_torchaudio"],
        "time_ratio_pruned": of["random", PRUNED]["speed_vs_torchaudio"],
        "pruned_bias": of["random", PRUNED]["loss_error"],
    }
    if ("trained", "ours fp32") in of:
        figures["time_ratio_trained"] = of["trained", "ours fp32"]["speed_vs_torchaudio"]
        figures["time_ratio_pruned_trained"] = of["trained", PRUNED]["speed_vs_torchaudio"]
        figures["pruned_bias_trained"] = of["trained", PRUNED]["loss_error"]
    return figures


def report(rows: list[dict[str, Any]]) -> None:
    """The table in Markdown."""
    print(
        "| B, T, U, V, J | occupancy (kept) | method | ms | x torchaudio | x floor | extra MiB | loss error | gradient error |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        sizes = ", ".join(str(row["sizes"][key]) for key in ("batch", "frames", "labels", "classes", "joint"))
        floor = "" if row["over_floor"] is None else f"{row['over_floor']:.2f}"
        gradient_error = "" if row["gradient_error"] is None else f"{row['gradient_error']:.1e}"
        print(
            f"| {sizes} | {row['occupancy']} ({row['kept']:.0%}) | {row['method']} | {1e3 * row['seconds']:.0f} | "
            f"{row['speed_vs_torchaudio']:.2f} | {floor} | {row['extra_bytes'] / 2**20:.0f} | "
            f"{row['loss_error']:.1e} | {gradient_error} |"
        )


if __name__ == "__main__":
    run_main(main)
