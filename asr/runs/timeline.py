"""What a learner did when, in its newest steps: timeline/<learner>.json, written anew at evaluations and at the end.

    {"learner": 0, "spans": [["step", start, end], ["data", start, end], ["waiting", ...], ["exchange", ...]]}

Times are seconds since 1970, so that those of learners of one host agree; hosts must have their clocks set. A step begins
with its wait for data; ``waiting`` is for other learners; an exchange is under way from its start until what came in is mixed
in, or until gradients are averaged, and may lie behind computation. Rows hold means over many steps; this is a look at a few.
"""

import json
import logging
import math
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from asr.foreign.json_text import read_json
from asr.runs.files import write_atomically
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from distributed.learners.traffic import Traffic

log = logging.getLogger(__name__)

STEPS = 48  # steps of a timeline, the newest
Kind = Literal["step", "data", "waiting", "exchange"]


class Spell(NamedTuple):
    """One kind of thing, from its start to its end in seconds."""

    kind: Kind
    start: float
    end: float


class TimelineWriter:
    """Keeps the newest steps of one learner in memory and writes them when asked."""

    def __init__(self, folder: Path, learner: int, traffic: Traffic) -> None:
        self.path = RunFolder(folder).timeline_of(learner)
        self.learner = learner
        self.traffic = traffic
        self._steps: deque[tuple[float, float, float]] = deque(maxlen=STEPS)  # start, data there, end; by perf_counter
        self._failed = False

    def after_step(self, step_seconds: float, waited_seconds: float) -> None:
        """Note a step that has just ended and took ``step_seconds``, first of all ``waited_seconds`` for its data."""
        end = time.perf_counter()
        start = end - step_seconds
        self._steps.append((start, start + waited_seconds, end))

    def write(self) -> None:
        """Write the file, if a step was made. A picture ends no training: what prevents it is logged, once."""
        if self._steps and not self._failed:
            try:
                self._write()
            except OSError as error:
                self._failed = True
                log.warning("%s cannot be written, the report will lack it: %s", self.path, error)

    def _write(self) -> None:
        spells: list[Spell] = []
        for start, loaded, end in self._steps:
            spells += [Spell("step", start, end), Spell("data", start, loaded)]
        first = self._steps[0][0]
        spells += [Spell(*span) for span in self.traffic.newest_spans() if span.end > first]
        clock = time.time() - time.perf_counter()
        written = [[kind, round(start + clock, 6), round(end + clock, 6)] for kind, start, end in spells]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps({"learner": self.learner, "spans": written}))


def read_timelines(folder: Path) -> dict[int, list[Spell]]:
    """The timelines of a run by learner; empty where there are none.

    Raises:
        UsageError: a file is damaged; one line that names it.
    """
    paths = [path for path in RunFolder(folder).timelines.glob("*.json") if path.stem.isdecimal()]
    return {int(path.stem): _spells(path, read_json(path).get("spans")) for path in paths}


def _spells(path: Path, spans: Any) -> list[Spell]:
    if not isinstance(spans, list) or not all(_is_spell(span) for span in spans):
        raise UsageError(f"{path} is no timeline of a learner; remove it: the next run writes it anew")
    return [Spell(*span) for span in spans]


def _is_spell(span: Any) -> bool:
    if not isinstance(span, list) or len(span) != 3 or span[0] not in get_args(Kind):
        return False
    ends = span[1:]
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in ends)
    return numbers and ends[0] <= ends[1]
