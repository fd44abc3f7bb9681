"""Cost and savings of compressed gradients: bytes for several numbers of learners, selection time, gradient build-up.

    python scripts/bench/compression.py --json compression.json --plot build-up.svg

Bytes are measured: real learners reduce one gradient of Conformer-S (10 million parameters) under each scheme, and what
they pass to collectives is counted, indices and uncompressed parameters included. The time of selection and memory is
measured against forward and backward of the same model on one learner, in turns, as medians. Build-up is simulated in
one process: how many distinct entries all learners together send under local top-k and under ScaleCom.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from matplotlib.figure import Figure
from torch import Tensor

from asr.data.batch import Batch
from asr.models.speech_model import SpeechModel
from asr.parts import build
from asr.runs.metrics import Row
from distributed.learners.world import World
from distributed.sparse.compressed import CompressedBackend
from distributed.values.selection import largest_of_chunks, positions_of, update_memory
from scripts.bench.learners import run_learners
from scripts.bench.report import save_figures
from scripts.composition.backends import build_backend
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

PIECES = 1024  # with so many outputs Conformer-S has 10.5 million parameters
UTTERANCES, FRAMES, TOKENS = 4, 800, 40  # batch of the step that the selection is compared with: four utterances of 8 s
SIMULATED = (1, 2, 4, 8, 16, 32, 64)


def schemes(rate: int) -> Mapping[str, Callable[[World], CompressedBackend]]:
    """All schemes that are compared, by their names in the results."""

    def made(word: str, **changes: Any) -> Callable[[World], CompressedBackend]:
        return partial(build_backend, word, **changes)

    return {
        "scalecom": made("scalecom", rate=rate),
        "scalecom-bf16": made("scalecom", rate=rate, values="bfloat16"),
        "local_topk": made("local_topk", rate=rate),
        "random_k": made("random_k", rate=rate),
        "powersgd-r1": made("powersgd", rank=1),
        "powersgd-r4": made("powersgd", rank=4),
        "fp16": made("half_allreduce", dtype="float16"),
    }


def main(arguments: list[str]) -> None:
    """Measure, simulate, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--plot", type=Path, help="where to save the curves of the build-up (.svg or .png)")
    parser.add_argument("--quick", action="store_true", help="two and four learners, fewer repetitions: under a minute")
    parser.add_argument("--learners", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rate", type=int, default=400, help="one entry in so many is sent")
    parser.add_argument("--repetitions", type=int, default=9, help="of the timed step")
    parser.add_argument("--simulated-steps", type=int, default=40, help="of the simulation of build-up")
    options = parser.parse_args(arguments)
    if options.quick:
        options.learners, options.repetitions, options.simulated_steps = [2, 4], 3, 10
    made_with = environment()
    rows = [row for size in options.learners for row in run_learners(size, traffic, options.rate)[0]]
    fraction = selection_fraction(options.rate, options.repetitions)
    growth = build_up(options.rate, options.simulated_steps)
    print(table(rows, growth))
    print(f"\nselection and memory over forward and backward: {fraction['selection_fraction']:.4f}")
    if options.plot:
        plot(growth, options.plot)
    if options.json:
        how = {"bytes_ratio": "measured", "selection_fraction": "measured", "union": "simulated in one process"}
        save_figures(options.json, figures(rows, growth) | fraction, [*rows, *growth], made_with, how=how)


def conformer() -> SpeechModel:
    """Build Conformer-S with random weights."""
    config = compose("train", ["model=conformer_s"])
    model: SpeechModel = build(config.model, vocabulary_size=PIECES, feature_dimension=80)
    return model


def prepared(backend: CompressedBackend, model: torch.nn.Module) -> CompressedBackend:
    """The backend around a model, ready for its first step."""
    backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=0.0))
    return backend


def traffic(world: World, rate: int) -> list[Row]:
    """Bytes that one step passes to collectives and sends on the wire, per scheme; run by every learner."""
    rows, model = [], conformer()
    for name, make in schemes(rate).items():
        backend = prepared(make(world), model)
        generator = torch.Generator().manual_seed(world.rank)
        for gradient in backend.flat.flat_grad:
            gradient.normal_(generator=generator)
        backend.metrics()
        backend.reduce_gradients(None)
        payload_bytes, counted = backend.exchange.payload.total, backend.metrics()
        row: Row = {"scheme": name, "learners": world.size, "payload_bytes": payload_bytes}
        row["bytes_ratio"] = counted["comm/compression_ratio"]
        row["wire_bytes_sent"] = counted["comm/bytes_sent"]
        rows.append(row)
    return rows


def selection_fraction(rate: int, repetitions: int) -> dict[str, float]:
    """ScaleCom's time for selection and norm on one learner, as a fraction of the computation time of a step."""
    torch.set_num_threads(1)
    world = World(0, 1, 0, 1, torch.device("cpu"), None)
    model, batch = conformer(), noise_batch()
    backend = prepared(
        build_backend("scalecom", world, rate=rate),
        model,
    )
    computing, reducing = [], []
    for _ in range(repetitions + 1):
        backend.zero_grad()
        started = time.perf_counter()
        model(batch).total.backward()
        computed = time.perf_counter()
        backend.reduce_gradients(None)
        reducing.append(time.perf_counter() - computed)
        computing.append(computed - started)
    seconds = {
        "compute_seconds": statistics.median(computing[1:]),
        "selection_seconds": statistics.median(reducing[1:]),
    }
    return seconds | {"selection_fraction": seconds["selection_seconds"] / seconds["compute_seconds"]}


def noise_batch() -> Batch:
    """Features of noise with random targets."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(UTTERANCES, FRAMES, 80, generator=generator)
    targets = torch.randint(1, PIECES, (UTTERANCES, TOKENS), generator=generator)
    names = [str(index) for index in range(UTTERANCES)]
    frames, tokens = torch.full((UTTERANCES,), FRAMES), torch.full((UTTERANCES,), TOKENS)
    return Batch(names, features, frames, targets, tokens, targets, float(UTTERANCES))


def build_up(rate: int, steps: int, entries: int = 40_000, noise: float = 1.0) -> list[Row]:
    """Entries that all learners together send, over entries / rate; the mean over the second half of ``steps``."""
    rows: list[Row] = []
    for scheme in ("local_topk", "scalecom"):
        for learners in SIMULATED:
            unions = simulate(scheme, learners, rate, steps, entries, noise)[steps // 2 :]
            rows.append({"scheme": scheme, "learners": learners, "union": statistics.mean(unions)})
    return rows


def simulate(scheme: str, learners: int, rate: int, steps: int, entries: int, noise: float) -> list[float]:
    """The union of the entries that all learners send, over those that one sends, step by step with error feedback.

    Gradients are a direction that all share, of entries of very unequal size, and normal ``noise`` of each learner's own
    of the same sizes.
    """
    generator = torch.Generator().manual_seed(1)
    scale = torch.randn(entries, generator=generator).exp()
    common = torch.randn(entries, generator=generator) * scale
    memory, unions = torch.zeros(learners, entries), []
    for step in range(steps):
        gradient = common + noise * scale * torch.randn(learners, entries, generator=generator)
        if scheme == "scalecom":
            chosen = [largest(memory[step % learners], gradient[step % learners], rate)] * learners
        else:
            chosen = [largest(m, g, rate) for m, g in zip(memory, gradient, strict=True)]
        unions.append(len(torch.cat(chosen).unique()) / len(chosen[0]))
        for m, g, index in zip(memory, gradient, chosen, strict=True):
            update_memory(m, g, index, torch.zeros(len(index)), beta=1.0)
    return unions


def largest(memory: Tensor, gradient: Tensor, rate: int) -> Tensor:
    """Positions (k,) of the largest entry of each chunk."""
    return positions_of(largest_of_chunks(memory, gradient, rate), rate)


def figures(rows: Sequence[Row], growth: Sequence[Row]) -> dict[str, float]:
    """The rows as flat results, keyed by scheme and number of learners."""
    found = {f"bytes_ratio/{row['scheme']}/{row['learners']}": row["bytes_ratio"] for row in rows}
    return found | {f"union/{row['scheme']}/{row['learners']}": row["union"] for row in growth}


def table(rows: Sequence[Row], growth: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| scheme | learners | payload, kB | dense / sent | sent on the wire, kB |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row['scheme']}` | {row['learners']} | {row['payload_bytes'] / 1e3:,.0f} | {row['bytes_ratio']:.1f} | "
        f"{row['wire_bytes_sent'] / 1e3:,.0f} |"
        for row in rows
    ]
    lines += ["", "| union over k, simulated | " + " | ".join(f"L = {learners}" for learners in SIMULATED) + " |"]
    lines += ["|---|" + "---|" * len(SIMULATED)]
    for scheme in ("local_topk", "scalecom"):
        unions = (f"{row['union']:.2f}" for row in growth if row["scheme"] == scheme)
        lines.append(f"| `{scheme}` | " + " | ".join(unions) + " |")
    return "\n".join(lines)


def plot(growth: Sequence[Row], path: Path) -> None:
    """The union over the number of learners, both axes logarithmic."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="learners", ylabel="distinct entries sent / k", title="Simulated build-up"
    )
    for scheme in ("local_topk", "scalecom"):
        curve = [row for row in growth if row["scheme"] == scheme]
        axes.plot([row["learners"] for row in curve], [row["union"] for row in curve], marker="o", label=scheme)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    run_main(main)
