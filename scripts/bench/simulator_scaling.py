"""Speed-up of up to 128 learners at the setting of arXiv 2110.11199, simulated, beside the paper's Tables III, IV and V.

    python scripts/bench/simulator_scaling.py --json docs/results/simulator-scaling.json

What is given: the model (43 million parameters), the samples of 16 epochs, the time that one V100 takes for them with
batches of 128, 256 and 512 (Table I, from which computation per batch is interpolated), and a global batch of 8,192. Two
numbers are fitted to Table V (delay-by-one): what a step takes over its computation to the run of 16 learners, the
goodput of each learner's link to that of 128. The runs of 32, 64 and 96 learners are predicted. All times are simulated; none
was measured by this project.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.runs.metrics import Row
from distributed.learners.traffic import all_reduce_bytes
from distributed.simulate.clock import Timing
from distributed.simulate.cluster import Cluster
from distributed.simulate.model_size import ModelSize
from distributed.simulate.pace import Constant, Pace, Straggler
from distributed.simulate.words import time_of, timed
from scripts.bench.report import save_figures
from scripts.composition.startup import run_main

MODEL = ModelSize.square(43_000_000)
SAMPLES = round(1_965 * 3_600 * 100 / 21) * 16  # 1,965 h of 100 frames per second in segments of 21, 16 epochs
BATCH = 8_192
ONE_GPU_HOURS = {128: 121.96, 256: 99.00, 512: 82.06}  # Table I, by batch
BASELINE_HOURS = ONE_GPU_HOURS[256]  # what speed-ups refer to in the paper
DELAYED_HOURS = {16: 5.88, 32: 3.60, 64: 2.28, 96: 2.10, 128: 1.98}  # Table V; 96 from arXiv 2002.01119
GOSSIP_HOURS = {16: 15.19, 32: 8.79, 64: 5.00}  # Table III, random ring
SLOW_RATIOS = {
    "delay_by_one": {5: 4.1, 10: 8.7, 100: 91.7},
    "adpsgd": {5: 1.1, 10: 1.1, 100: 1.2},
}  # Table IV, 16 learners
FITTED = (16, 128)
LEARNERS = (1, 2, 4, 8, 16, 32, 64, 96, 128)
STEPS = 60
RANDOM_RING = {"topology": "random_ring", "seed": 1}
SCHEMES: Mapping[str, Mapping[str, Any]] = {
    "allreduce": {"bucket_mb": 25},
    "delay_by_one": {},
    "dpsgd": RANDOM_RING,
    "adpsgd": RANDOM_RING | {"rounds_per_step": 1.0, "max_staleness": 16},
}


def batch_seconds(batch: float) -> float:
    """Computation of a batch on one V100: through the points of Table I, and on along the nearest line."""
    points = [(size, hours * 3_600 * size / SAMPLES) for size, hours in ONE_GPU_HOURS.items()]
    lines = list(pairwise(points))
    (low, low_seconds), (high, high_seconds) = next((line for line in lines if batch <= line[1][0]), lines[-1])
    return low_seconds + (batch - low) * (high_seconds - low_seconds) / (high - low)


def step_seconds(hours: float) -> float:
    """Time of a step of the global batch in a run of so many hours."""
    return hours * 3_600 * BATCH / SAMPLES


OVER_COMPUTE = step_seconds(DELAYED_HOURS[16]) / batch_seconds(BATCH / 16)
GOODPUT = all_reduce_bytes(MODEL.nbytes, 128) / step_seconds(DELAYED_HOURS[128])


def main(arguments: list[str]) -> None:
    """Simulate, print tables in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    scaling = [scaled(word, learners) for learners in LEARNERS for word in SCHEMES]
    slow = [slowed(word, factor) for word, ratios in SLOW_RATIOS.items() for factor in ratios]
    print(f"fitted: a step takes {OVER_COMPUTE:.3f} of its computation, links carry {GOODPUT / 1e9:.2f} GB/s\n")
    print(scaling_table(scaling), slow_table(slow), sep="\n\n")
    if options.json is not None:
        figures = {"over_compute": OVER_COMPUTE, "goodput_bytes_per_second": GOODPUT}
        figures |= {f"hours/{row['scheme']}/{row['learners']}": row["hours"] for row in scaling}
        figures |= {f"straggler_ratio/{row['scheme']}/{row['factor']}x": row["ratio"] for row in slow}
        save_figures(options.json, figures, [*scaling, *slow], how="simulated; the paper's figures: arXiv 2110.11199")


def simulated(word: str, learners: int, factor: float = 1.0) -> Timing:
    """Steps of a scheme; learner 0 is ``factor`` times slower."""
    cluster = Cluster(learners, 1, GOODPUT, 0.0, GOODPUT, 0.0)
    pace: Pace = Constant(batch_seconds(BATCH / learners) * OVER_COMPUTE)
    pace = pace if factor == 1 else Straggler(pace, factor)
    scheme = timed(word, SCHEMES[word], cluster)
    return time_of(scheme, cluster, MODEL, pace, steps=STEPS, work_seconds=0.0)


def scaled(word: str, learners: int) -> Row:
    """Hours of 16 epochs by a scheme, its speed-up over one GPU with batches of 256, and the paper's hours."""
    timing = simulated(word, learners)
    hours = timing.step_seconds * SAMPLES / BATCH / 3_600
    paper = {"delay_by_one": DELAYED_HOURS, "adpsgd": GOSSIP_HOURS}.get(word, {}).get(learners)
    return {
        "scheme": word,
        "learners": learners,
        "hours": hours,
        "speed_up": BASELINE_HOURS / hours,
        "efficiency": BASELINE_HOURS / hours / learners,
        "bytes_sent": timing.bytes_sent,
        "paper_hours": paper,
        "fitted": word == "delay_by_one" and learners in FITTED,
    }


def slowed(word: str, factor: int) -> Row:
    """Epoch of 16 learners, one of them slow, over that with none slow."""
    ratio = simulated(word, 16, factor).step_seconds / simulated(word, 16).step_seconds
    return {"scheme": word, "factor": factor, "ratio": ratio, "paper_ratio": SLOW_RATIOS[word][factor]}


def scaling_table(rows: Sequence[Row]) -> str:
    """Speed-up and efficiency of every scheme by learners, with the paper's hours beside delay-by-one and adpsgd."""
    names = list(SCHEMES)
    lines = [
        "| learners | "
        + " | ".join(f"`{name}` h, speed-up, efficiency" for name in names)
        + " | paper: D1D h | error | RM h |",
        "|---" * (len(names) + 4) + "|",
    ]
    for learners in LEARNERS:
        of_size = {row["scheme"]: row for row in rows if row["learners"] == learners}
        cells = [f"{row['hours']:.2f}, {row['speed_up']:.1f}, {row['efficiency']:.0%}" for row in of_size.values()]
        delayed, gossip = of_size["delay_by_one"], of_size["adpsgd"]
        paper = delayed["paper_hours"]
        error = "" if paper is None else "fitted" if delayed["fitted"] else f"{delayed['hours'] / paper - 1:+.1%}"
        others = [f"{hours:.2f}" if hours is not None else "" for hours in (paper, gossip["paper_hours"])]
        lines.append(f"| {learners} | {' | '.join(cells)} | {others[0]} | {error} | {others[1]} |")
    return "\n".join(lines)


def slow_table(rows: Sequence[Row]) -> str:
    """Ratios with a slow learner beside the paper's."""
    lines = ["| scheme | slower | simulated | paper |", "|---|---|---|---|"]
    lines += [f"| `{r['scheme']}` | {r['factor']}x | {r['ratio']:.2f} | {r['paper_ratio']} |" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
