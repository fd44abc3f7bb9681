"""The kinds of faults, how many of each are tried, and the table of what came of them."""

import itertools
import json
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from distributed.errors import UsageError
from tests.chaos import corruption, damage, disks, network, readers, signals
from tests.chaos.ground import Ground, Tried
from tests.chaos.trial import BrokenPromiseError
from tests.processes import end_all
from tests.unit.hostile.readers import READERS


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: a trial of it is a run, or a reader, that several faults are done to."""

    attempt: Callable[[Ground, random.Random], Iterator[Tried]]
    quick: int  # trials
    full: int


QUICK_READERS = ("manifest", "kaldi", "metrics")

KINDS: Mapping[str, Kind] = {
    "kill": Kind(signals.kill, 3, 25),
    "crash": Kind(signals.crash, 1, 10),
    "stop": Kind(signals.stop, 1, 8),
    "hold-shortly": Kind(signals.hold_shortly, 1, 6),
    "hold": Kind(signals.hold, 1, 8),
    "joining": Kind(signals.joining, 1, 12),
    "restarts": Kind(signals.restarts, 1, 13),
    "asked": Kind(signals.asked, 1, 10),
    "asked-launcher": Kind(signals.asked_launcher, 1, 3),
    "weights": Kind(corruption.weights, 1, 14),
    "gradients": Kind(corruption.gradients, 1, 10),
    "messages": Kind(corruption.messages, 1, 8),
    "checkpoints": Kind(damage.checkpoints, 3, 35),
    "disk-one": Kind(disks.one_learner, 1, 8),
    "disk-all": Kind(disks.whole_disk, 1, 8),
    "partition": Kind(network.partition, 1, 10),
    "strangers": Kind(network.strangers, 1, 8),
} | {f"read {name}": Kind(partial(readers.read, name=name), int(name in QUICK_READERS), 1) for name in READERS}


@dataclass
class Row:
    """What came of a kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    worst: float | None = None
    broken: list[str] = field(default_factory=list)
    left_out: str | None = None  # why it cannot be tried here
    not_begun: int = 0  # trials, for which there was no time
    seconds: float = 0.0

    @property
    def tries(self) -> int:
        """Number of faults done."""
        return sum(self.outcomes.values())

    def add(self, tried: Tried) -> None:
        """Count what came of a fault, or of several alike."""
        self.outcomes[tried.outcome] += tried.tries
        if tried.seconds is not None:
            self.worst = max(self.worst or 0.0, tried.seconds)


def run(ground: Ground, seed: int, trials: Mapping[str, Sequence[int]], minutes: float) -> dict[str, Row]:
    """Try every kind, ``trials`` being the indices for each, one of each in turn, and print a line for each trial.

    No trial begins after so many minutes.
    """
    rows, over = {kind: Row() for kind in trials}, time.monotonic() + 60 * minutes
    turns = itertools.zip_longest(*([(kind, index) for index in indices] for kind, indices in trials.items()))
    for kind, index in filter(None, itertools.chain.from_iterable(turns)):
        row = rows[kind]
        if time.monotonic() > over:
            row.not_begun += 1
            continue
        began, broken = time.monotonic(), len(row.broken)
        _try(ground, row, seed, kind, index)
        seconds = time.monotonic() - began
        row.seconds += seconds
        state = "BROKEN" if len(row.broken) > broken else row.left_out or "kept"
        print(
            f"{kind}:{index}  {row.tries} tries  {seconds:.0f} s  {state}", *row.broken[broken:], sep="\n  ", flush=True
        )
    return rows


def _try(ground: Ground, row: Row, seed: int, kind: str, index: int) -> None:
    again = f"python -m tests.chaos --seed {seed} --only '{kind}:{index}'{' --quick' if ground.quick else ''}"
    try:
        for tried in KINDS[kind].attempt(ground, random.Random(f"{seed} {kind} {index}")):
            row.add(tried)
    except UsageError as error:
        row.left_out = str(error)
    except BrokenPromiseError as error:
        row.broken.append(f"{again}: {error}")
    except Exception:  # what the campaign itself does not expect; the other trials are still worth their hour
        row.broken.append(f"{again}: {traceback.format_exc()}")
    finally:
        end_all()


def table(rows: Mapping[str, Row]) -> str:
    """The rows as Markdown; readers are one row."""
    lines = ["| kind | tries | outcome | worst seconds |", "|---|---|---|---|"]
    for kind, row in _merged(rows).items():
        outcome = ", ".join(f"{count} {name}" for name, count in sorted(row.outcomes.items()))
        if row.broken:
            outcome += f" **{len(row.broken)} broken**"
        if row.left_out is not None:
            outcome += f"left out: {row.left_out}"
        if row.not_begun:
            outcome += f" ({row.not_begun} trials not begun)"
        worst = "" if row.worst is None else f"{row.worst:.1f}"
        lines.append(f"| {kind} | {row.tries} | {outcome.strip()} | {worst} |")
    return "\n".join(lines)


def _merged(rows: Mapping[str, Row]) -> dict[str, Row]:
    merged: dict[str, Row] = {}
    for kind, row in rows.items():
        total = merged.setdefault("bad input" if kind.startswith("read ") else kind, Row())
        total.outcomes += row.outcomes
        total.broken += row.broken
        total.left_out = total.left_out or row.left_out
        total.seconds += row.seconds
        total.not_begun += row.not_begun
        if row.worst is not None:
            total.worst = max(total.worst or 0.0, row.worst)
    return merged


def record(rows: Mapping[str, Row], seed: int) -> str:
    """The rows as JSON."""
    kinds = {
        kind: {
            "tries": row.tries, "outcomes": dict(row.outcomes), "worst_seconds": row.worst, "broken": row.broken,
            "left_out": row.left_out, "not_begun": row.not_begun, "seconds": round(row.seconds, 1),
        }
        for kind, row in rows.items()
    }  # fmt: skip
    return json.dumps({"seed": seed, "date": time.strftime("%Y-%m-%d"), "kinds": kinds}, indent=1)
