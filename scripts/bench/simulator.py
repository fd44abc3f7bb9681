"""How well the time simulator predicts: fitted to some measured settings, compared with those held out.

    python scripts/bench/simulator.py --json docs/results/simulator.json

Nothing is measured here: the points are those of docs/results/network*.json (step times on slow links) and straggler.json (an
epoch with a slow learner). On links each setting is held out in turn: a scheme's own work, in seconds per byte of the
model, is the mean of the other settings', scaled by the speed at which the machines compute. What a prediction is
given of its setting is the time of computation alone and the goodput of plain TCP. With slow learners, what a step takes
beside its unit is taken from the epoch with nobody slow, and the epochs with a slow learner are predicted; where learners
are threads of one core, also with the speed of a learner whose neighbour waits taken from the epoch 5 times slower. Bytes
have nothing to be fitted: they are compared with those that backends counted (traffic-*.json).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.runs.metrics import Row
from distributed.simulate.clock import Gossip, Timing
from distributed.simulate.cluster import Cluster
from distributed.simulate.model_size import ModelSize
from distributed.simulate.pace import Beside, Constant, Straggler
from distributed.simulate.timed import Timed
from distributed.simulate.timed_groups import GroupedGossip
from distributed.simulate.words import time_of, timed
from scripts.bench.report import save_figures
from scripts.composition.startup import REPOSITORY, run_main

RESULTS = REPOSITORY / "docs" / "results"
BURST_BYTES = 2**20  # of the emulated links: BURST in scripts/bench/namespaces.py
LAYERS, WIDTH = 7, 1216  # the perceptron of scripts/bench/network.py
PERCEPTRON = ModelSize(((WIDTH, WIDTH), (WIDTH,)) * LAYERS)
EMULATED = ModelSize.square(100_000)  # of scripts/bench/straggler.py
UNIT_SECONDS = 0.02
STEPS = 40  # of a simulation; a constant pace needs no more
AD_STEPS = 400  # the same of asynchronous gossip, of which an exchange lasts some 25 steps
LATENCY_SECONDS = 1e-4  # of a message between namespaces: a small all-reduce took 0.5 ms
LOOPBACK_BYTES_PER_SECOND = 1e9  # of an exchange between processes of one host, each way

RING = {"topology": "ring", "seed": 1, "max_staleness": 64}
SPARSE = {"rate": 400, "values": "full"}
SCHEMES: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # of the measurement: word and settings
    "adpsgd": ("adpsgd", RING | {"rounds_per_step": 0.22}),
    "dpsgd": ("dpsgd", RING),
    "delay_by_one": ("delay_by_one", {}),
    "allreduce": ("allreduce", {"bucket_mb": 25}),
    "half_allreduce": ("half_allreduce", {}),
    "scalecom": ("scalecom", SPARSE),
    "local_topk": ("local_topk", SPARSE),
    "powersgd-r1": ("powersgd", {"rank": 1, "min_rate": 2.0}),
    "powersgd-r4": ("powersgd", {"rank": 4, "min_rate": 2.0}),
}
STRAGGLERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "allreduce": ("allreduce", {"bucket_mb": 25}),
    "delay_by_one": ("delay_by_one", {}),
    "adpsgd-ring": ("adpsgd", RING | {"rounds_per_step": 1.0, "max_staleness": 16}),
    "adpsgd-random_ring": (
        "adpsgd",
        {"topology": "random_ring", "seed": 1, "rounds_per_step": 1.0, "max_staleness": 16},
    ),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured of one link on one machine."""

    name: str
    rows: Mapping[str, Row]  # by scheme

    @property
    def compute_seconds(self) -> float:
        """A step of computation alone."""
        return float(self.rows["compute"]["step_seconds"])

    @property
    def sample_seconds(self) -> float:
        """Computation of one sample: how slow the machine is."""
        return self.compute_seconds / float(self.rows["compute"]["batch"])

    @property
    def cluster(self) -> Cluster:
        """Two learners on two nodes."""
        goodput = float(self.rows["compute"]["goodput_bytes_per_second"])
        return Cluster(2, 1, goodput, LATENCY_SECONDS, goodput, LATENCY_SECONDS, BURST_BYTES)

    def time(self, scheme: Timed | Gossip | GroupedGossip, work_seconds: float) -> Timing:
        """Simulate the scheme in this setting."""
        steps = AD_STEPS if isinstance(scheme, (Gossip, GroupedGossip)) else STEPS
        pace = Constant(self.compute_seconds)
        return time_of(scheme, self.cluster, PERCEPTRON, pace, steps=steps, work_seconds=work_seconds)

    def work_per_byte(self, name: str) -> float:
        """What the scheme's own work must have taken per byte of the model, or per byte sent under ``adpsgd``."""
        word, settings = SCHEMES[name]
        scheme, row = timed(word, settings, self.cluster), self.rows[name]
        if isinstance(scheme, (Gossip, GroupedGossip)):
            return (row["step_seconds"] - self.compute_seconds) / row["payload_bytes"]
        return (row["step_seconds"] - self.time(scheme, 0.0).step_seconds) / PERCEPTRON.nbytes


def main(arguments: list[str]) -> None:
    """Fit, predict, print tables in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    settings = measured_settings()
    fitted = {name: fitted_work(name, settings, settings[0].sample_seconds) for name in SCHEMES}
    rows = [*link_rows(settings), *straggler_rows(), *byte_rows()]
    print(table(rows))
    print("\nwork, seconds per byte:", {name: float(f"{value:.3g}") for name, value in fitted.items()})
    if options.json is not None:
        figures = {f"work_seconds_per_byte/{name}": value for name, value in fitted.items()}
        figures |= {f"error/{row['kind']}/{row['scheme']}/{row['setting']}": row["error"] for row in rows}
        save_figures(options.json, figures, rows, how={"measured": "measured (docs/results)", "predicted": "simulated"})


def measured_settings() -> list[Setting]:
    """The settings of both files of step times."""
    found = []
    for name, machine in (("network", "Zen 3"), ("network-200mbit", "Zen 4")):
        rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
        for bandwidth in dict.fromkeys(row["bandwidth"] for row in rows):
            of_link = {row["scheme"]: row for row in rows if row["bandwidth"] == bandwidth}
            found.append(Setting(f"{bandwidth}, {machine}", of_link))
    return found


def fitted_work(name: str, settings: Sequence[Setting], sample_seconds: float) -> float:
    """Mean work per byte of the settings, on a machine that takes ``sample_seconds`` for a sample."""
    return statistics.mean(each.work_per_byte(name) / each.sample_seconds for each in settings) * sample_seconds


def link_rows(settings: Sequence[Setting]) -> list[Row]:
    """Every scheme in every setting, predicted from the others."""
    found = []
    for held_out in settings:
        others = [each for each in settings if each is not held_out]
        for name, (word, keys) in SCHEMES.items():
            work = fitted_work(name, others, held_out.sample_seconds) * PERCEPTRON.nbytes
            # Each exchange takes ``work`` at both ends, and a learner sends a model in each.
            timing = held_out.time(timed(word, keys, held_out.cluster), work)
            measured = held_out.rows[name]["step_seconds"]
            found.append(row("step", name, held_out.name, measured, timing.step_seconds, timing.bytes_sent))
    return found


def straggler_rows() -> list[Row]:
    """Epochs with a slow learner, predicted from the one with nobody slow."""
    found = []
    measured = json.loads((RESULTS / "straggler.json").read_text())["rows"]
    for none in (each for each in measured if each["slowdown"] == 1.0):
        learners = 4 if none["compute"] == "emulated" else 2
        word, settings = STRAGGLERS[none["scheme"]]
        cluster = Cluster(learners, learners, *(LOOPBACK_BYTES_PER_SECOND, LATENCY_SECONDS) * 2)
        steps = round(none["units"] / learners)
        beside = none["seconds"] / steps - UNIT_SECONDS
        alone = 1.0  # how many times as fast a learner computes while the others wait
        for slow in measured:
            if (slow["compute"], slow["scheme"]) != (none["compute"], none["scheme"]) or slow["slowdown"] == 1:
                continue
            for speed in dict.fromkeys((1.0, alone)):
                factor = 1 + (slow["slowdown"] - 1) / speed
                pace = Beside(Straggler(Constant(UNIT_SECONDS), factor), beside)
                timing = time_of(timed(word, settings, cluster), cluster, EMULATED, pace, steps=steps, work_seconds=0.0)
                seconds = timing.epoch_seconds(none["units"], learners)
                setting = f"{slow['compute']}, {slow['slowdown']:g}x"
                setting += "" if speed == 1 else ", speed alone from 5x"
                found.append(row("epoch", none["scheme"], setting, slow["seconds"], seconds, timing.bytes_sent))
            if none["compute"] == "real" and word != "adpsgd":  # two threads of one core
                alone = (slow["slowdown"] - 1) * UNIT_SECONDS / (slow["seconds"] / steps - UNIT_SECONDS - beside)
    return found


def byte_rows() -> list[Row]:
    """Bytes per step and learner of schemes in lockstep, against those counted by the backends."""
    found = []
    for learners in (2, 4):
        cluster = Cluster(learners, 1, 1e9, 0.0, 1e9, 0.0)
        for counted in json.loads((RESULTS / f"traffic-{learners}.json").read_text())["rows"]:
            scheme = timed(*SCHEMES[counted["scheme"]], cluster) if counted["scheme"] in SCHEMES else None
            if isinstance(scheme, Timed):
                sent = scheme.bytes_sent(cluster, PERCEPTRON)
                found.append(row("bytes", counted["scheme"], f"{learners} learners", counted["counted"], sent, sent))
    return found


def row(kind: str, scheme: str, setting: str, measured: float, predicted: float, bytes_sent: float) -> Row:
    """One comparison."""
    error = predicted / measured - 1
    return {
        "kind": kind, "scheme": scheme, "setting": setting, "measured": measured, "predicted": predicted,
        "error": error, "bytes_sent": bytes_sent,
    }  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The comparisons in Markdown."""
    lines = ["| what | scheme | setting held out | measured | predicted | error |", "|---|---|---|---|---|---|"]
    for each in rows:
        lines.append(
            f"| {each['kind']} | `{each['scheme']}` | {each['setting']} | {each['measured']:.4g} | {each['predicted']:.4g} | "
            f"{each['error']:+.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
