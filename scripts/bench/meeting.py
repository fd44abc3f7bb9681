"""How long learners take to meet, and how many connections each has then, by their number; extrapolated to 1,000.

    python scripts/bench/meeting.py --json docs/results/meeting.json        # --quick: once, 2, 4 and 8 learners

Real processes on one host start as torchrun starts them. The clock runs from the moment at which the last of them has begun to
join until the last one has joined, and again while the scheme makes its own group. All share this host's processors: with many
learners the seconds are those of a crowd on few cores, where in a real run each learner has its own.
Traffic is that of the loopback interface, the launcher's included. Figures are medians over repetitions, in which all sizes take
turns. The first topology comes once more with gloo's default, which asks the store for each member's address apart
(all are alike where GLOO_ENABLE_STORE_V2_API is set in the environment). The extrapolation goes on from the last two sizes.
torch asks the name of every address for its log: where the name server is slow, ``RES_OPTIONS=attempts:0`` leaves that out.
"""

import argparse
import math
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.runs.metrics import Row
from distributed.learners import launch
from distributed.learners.connections import sockets
from distributed.learners.environment import place, prepare_for_groups
from scripts.bench.learners import launched
from scripts.bench.report import save_figures
from scripts.composition.backends import build_backend
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

SIZES, QUICK_SIZES = (2, 4, 8, 16, 32, 64), (2, 4, 8)
ESTIMATED = 1000  # learners
WAIT_SECONDS = 600.0
SOCKETS = ("sockets_joined", "sockets_gossip")
FIGURES = ("join_seconds", "group_seconds", "sockets_joined", "sockets_gossip", "kilobytes", "packets")


def main(arguments: list[str]) -> None:
    """Measure, print a table in Markdown, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", nargs="+", default=["ring", "random_ring"], help="of dpsgd")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="few learners")
    parser.add_argument("--repetitions", type=int, default=3, help="with --quick 1")
    options = parser.parse_args(arguments)
    made_with = environment()
    multiprocessing.set_forkserver_preload(["scripts.bench.meeting", "distributed.schemes.dpsgd", "torch._dynamo"])
    sizes = QUICK_SIZES if options.quick else SIZES
    cases = [*((topology, True) for topology in options.topologies), (options.topologies[0], False)]
    turns = [
        [measured(size, *case) for case in cases for size in sizes]
        for _ in range(1 if options.quick else options.repetitions)
    ]
    rows = [middle(each) for each in zip(*turns, strict=True)]
    for name in dict.fromkeys(row["topology"] for row in rows):
        own = [row for row in rows if row["topology"] == name]
        rows.append({"topology": name, "learners": ESTIMATED, "estimated": True} | estimated(own))
    print(table(rows))
    if options.json is not None:
        figures = {f"{key}/{row['topology']}/{row['learners']}": row[key] for row in rows for key in FIGURES}
        save_figures(
            options.json, figures, rows, made_with, how={"1000 learners": "extrapolated", "others": "measured"}
        )


def measured(size: int, topology: str, in_one_request: bool) -> Row:
    """Start so many learners; figures of the last of them, sockets of the one with the most."""
    found = launched(size, meet, topology, in_one_request, start_method="forkserver")
    begun, joined, asked, made = (max(each[key] for each in found) for key in ("begun", "joined", "asked", "made"))
    print(f"{size} learners, {topology}: joined after {joined - begun:.2f} s", flush=True)
    before, after = found[0]["loopback_before"], found[0]["loopback_after"]
    return {
        "topology": topology if in_one_request else f"{topology}, addresses one by one",
        "learners": size,
        "estimated": False,
        "join_seconds": joined - begun,
        "group_seconds": made - asked,
        # Learner 0 has one more for each of the others.
        "sockets_joined": max(each["sockets_joined"] for each in found[1:]),
        "sockets_gossip": max(each["sockets_gossip"] for each in found[1:]),
        "kilobytes": (after[0] - before[0]) / 1000 / size,
        "packets": (after[1] - before[1]) / size,
    }


def middle(repetitions: Sequence[Row]) -> Row:
    """The medians of what was measured again and again."""
    return repetitions[0] | {key: statistics.median(row[key] for row in repetitions) for key in FIGURES}


def meet(topology: str, in_one_request: bool) -> Row:
    """What one learner measures; the addresses of all members are read from the store at once or one by one."""
    prepare_for_groups(addresses_at_once=in_one_request)
    loopback_before, begun = loopback(), time.monotonic()
    world = launch.start(
        place(), join_seconds=WAIT_SECONDS, timeout_seconds=WAIT_SECONDS, patience_seconds=WAIT_SECONDS, device="cpu",
        threads=1,
    )  # fmt: skip
    joined, sockets_joined = time.monotonic(), len(connected_sockets())
    backend = build_backend("dpsgd", world, topology=topology)
    world.barrier()
    asked = time.monotonic()
    members = backend.exchange.group.size()  # made by being asked for
    made, sockets_gossip = time.monotonic(), len(connected_sockets())
    assert members == world.size
    world.barrier()
    loopback_after = loopback()
    world.barrier()
    backend.close()
    launch.stop(world)
    return {
        "begun": begun, "joined": joined, "asked": asked, "made": made, "sockets_joined": sockets_joined,
        "sockets_gossip": sockets_gossip, "loopback_before": loopback_before, "loopback_after": loopback_after,
    }  # fmt: skip


def loopback() -> tuple[int, int]:
    """Bytes and packets that the loopback interface has carried."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    received = line.split(":")[1].split()
    return int(received[0]), int(received[1])


def connected_sockets() -> set[int]:
    """Inodes of this process's TCP sockets that are connected."""
    found = set()
    for inode, descriptor in sockets().items():
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as each:
            each.getpeername()  # OSError: it listens
            if each.family in (socket.AF_INET, socket.AF_INET6):
                found.add(inode)
    return found


def estimated(rows: Sequence[Row]) -> dict[str, float]:
    """Every figure at ``ESTIMATED`` learners as it grows between the last two sizes: sockets in a straight line, the rest as a power."""
    *_, before, last = rows
    few, many = before["learners"], last["learners"]
    power = math.log(ESTIMATED / many) / math.log(many / few)
    found = {key: last[key] * (last[key] / before[key]) ** power for key in FIGURES}
    steps = (ESTIMATED - many) / (many - few)
    return found | {key: last[key] + steps * (last[key] - before[key]) for key in SOCKETS}


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| dpsgd on | learners | join, s | group of the scheme, s | sockets, joined | with gossip | kB per learner | packets |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        learners = f"{row['learners']:,}" + (", estimated" if row["estimated"] else "")
        lines.append(
            f"| {row['topology']} | {learners} | {row['join_seconds']:.2f} | {row['group_seconds']:.2f} | "
            f"{row['sockets_joined']:.0f} | {row['sockets_gossip']:.0f} | {row['kilobytes']:.0f} | {row['packets']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
