"""Milliseconds of an encoder as a function of the numbers of units, from a table that was measured on one processor.

Operations mislead: a subsampling of 3 % of the parameters may take a third of the time. So each part of the encoder (a feed-forward
module, attention, ...) is measured alone at some sizes, on one thread, and lies between them by linear interpolation of
its table along every size. Tables are made monotone, so that fewer units never take longer.
"""

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.foreign.json_text import read_json
from asr.models.encoder import Encoder
from asr.training.processor import cpu_info, instruction_set
from compression.pruning.costs import Extent, Sizes
from compression.pruning.parts import BUILDERS, Part, Runnable, Size, parts_of
from compression.pruning.runtimes import RUNTIMES, Arithmetic, Step
from compression.pruning.units import Site
from distributed.errors import UsageError

log = logging.getLogger(__name__)

FORMAT = 1
FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)


class Table(NamedTuple):
    """Milliseconds (n, m, ...) of one kind of part, at the points (n,), (m,), ... of its sizes, ascending."""

    points: tuple[Tensor, ...]
    milliseconds: Tensor


# ---------------------------------------------------------------------- the cost


class Latency:
    """The cost in milliseconds of an encoder's parts, by their tables, in double precision on the CPU.

    P parts of one kind   S sites
    """

    def __init__(self, parts: Sequence[Part], tables: Mapping[str, Table]) -> None:
        sized = {name for part in parts for size in part.sizes for name, _ in size.sites}
        self.sites = sorted(sized | {part.gate for part in parts if part.gate is not None})
        kinds = {part.kind: [each for each in parts if each.kind == part.kind] for part in parts}
        for kind, same in kinds.items():
            refuse_other_model(kind, same, tables.get(kind))
        self.groups = [(tables[kind], *self._group(same)) for kind, same in kinds.items()]

    def _group(self, same: Sequence[Part]) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
        """Sizes of parts of one kind as constants (P,) and multiples (P, S) of sites; places of their gates, -1 for none."""
        lines = []
        for each in zip(*(part.sizes for part in same), strict=True):
            rows = [[float(site in dict(size.sites)) for site in self.sites] for size in each]
            constants = torch.tensor([size.constant for size in each], dtype=torch.float64)
            lines.append((constants, torch.tensor(rows, dtype=torch.float64).reshape(len(each), -1)))
        return lines, [-1 if part.gate is None else self.sites.index(part.gate) for part in same]

    def __call__(self, sizes: Sizes) -> Tensor:
        """The sum over all parts, for numbers of units by the names of sites."""
        one = torch.ones((), dtype=torch.float64)
        units_S = torch.stack([*(sizes[name].double().cpu() for name in self.sites), one])
        total = one.new_zeros(())
        for table, lines, gates in self.groups:
            at = [constant_P + multiple_PS @ units_S[:-1] for constant_P, multiple_PS in lines]
            total = total + (interpolated(table, at) * units_S[gates].clamp(max=1)).sum()
        return total


def interpolated(table: Table, at: Sequence[Tensor]) -> Tensor:
    """Values (P,) at sizes (P,), ...: linear along each; beyond the outer points along the line of the last two."""
    corners = []
    for points, x_P in zip(table.points, at, strict=True):
        upper_P = torch.searchsorted(points, x_P.detach().contiguous()).clamp(1, len(points) - 1)
        weight_P = (x_P - points[upper_P - 1]) / (points[upper_P] - points[upper_P - 1])
        corners.append(((upper_P - 1, 1 - weight_P), (upper_P, weight_P)))
    terms = []
    for corner in itertools.product(*corners):
        value_P = table.milliseconds[tuple(place for place, _ in corner)]
        for _, weight_P in corner:
            value_P = value_P * weight_P
        terms.append(value_P)
    return torch.stack(terms).sum(0)


def refuse_other_model(kind: str, same: Sequence[Part], table: Table | None) -> None:
    """Raise UsageError unless a table ends at the full sizes of the largest of all parts of its kind."""
    largest = [max(size.full for size in sizes) for sizes in zip(*(part.sizes for part in same), strict=True)]
    if table is not None and len(table.points) == len(largest) and all(map(_ends_at, table.points, largest)):
        return
    has = f"no {kind}" if table is None else f"a {kind} of {_product([float(p[-1]) for p in table.points])} at most"
    raise UsageError(
        f"the latency table has {has}, this model one of {_product(largest)}: it was measured for another model; measure "
        "this one with scripts/bench/latency.py"
    )


def _product(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def _ends_at(points: Tensor, size: int) -> bool:
    """Whether a size is the last of these points, or the last but one before the next number (see ``points_of``)."""
    return float(points[-1]) == size or points[-2:].tolist() == [size, size + 1]


# ---------------------------------------------------------------------- measuring


def measure(
    encoder: Encoder, found: Sequence[Site], extent: Extent, rounds: int, arithmetic: Arithmetic = "fp32"
) -> dict[str, Table]:
    """Measure the parts of an encoder at sizes up to its own: medians of processor time, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return {
                kind: _measured(encoder, kind, same, extent, rounds, RUNTIMES[arithmetic])
                for kind, same in itertools.groupby(
                    sorted(parts_of(encoder, found), key=lambda each: each.kind), key=lambda each: each.kind
                )
            }
    finally:
        torch.set_num_threads(threads)


def _measured(
    encoder: Encoder, kind: str, same: Any, extent: Extent, rounds: int, runtime: Callable[[Runnable], Step]
) -> Table:
    """The table of one kind of part, whose largest sizes are those of the largest."""
    every = list(same)
    builder = BUILDERS[kind]
    points = [points_of([part.sizes[place] for part in every]) for place in range(len(every[0].sizes))]
    grid = list(itertools.product(*points))
    steps = {sizes: runtime(builder(encoder, sizes, extent)) for sizes in grid if all(sizes)}
    seconds: dict[tuple[int, ...], list[float]] = {sizes: [] for sizes in steps}
    for round_ in range(rounds + 1):
        for sizes, step in steps.items():
            begun = time.process_time()
            step()
            if round_:
                seconds[sizes].append(time.process_time() - begun)
    milliseconds = [1000 * statistics.median(seconds[sizes]) if sizes in seconds else 0.0 for sizes in grid]
    return table_of(points, torch.tensor(milliseconds, dtype=torch.float64))


def table_of(points: Sequence[Sequence[int]], milliseconds: Tensor) -> Table:
    """A table, made monotone along every size."""
    values = milliseconds.reshape([len(each) for each in points])
    for dim in range(values.dim()):
        values = values.cummax(dim).values
    return Table(tuple(torch.tensor(each, dtype=torch.float64) for each in points), values)


def points_of(sizes: Sequence[Size]) -> list[int]:
    """The points at which a size is measured: fractions of the largest, and 0 where the part can be absent."""
    largest = max(sizes, key=lambda each: each.full)
    if not any(size.sites for size in sizes):
        return sorted({size.full for size in sizes} | {largest.full + 1})
    fractions = {max(1, round(fraction * largest.full)) for fraction in FRACTIONS}
    other = {0} if largest.can_vanish else {2} if largest.full == 1 else set()  # two points at least
    return sorted(fractions | other)


# ---------------------------------------------------------------------- the file


def as_json(tables: Mapping[str, Table], extent: Extent, arithmetic: Arithmetic = "fp32") -> dict[str, Any]:
    """The content of a file of tables."""
    return {
        "format": FORMAT,
        "arithmetic": arithmetic,
        "frames": extent.frames,
        "processor": cpu_info("model name"),
        "instruction_set": instruction_set(),
        "threads": 1,
        "parts": {
            kind: {"sizes": [each.tolist() for each in table.points], "milliseconds": table.milliseconds.tolist()}
            for kind, table in tables.items()
        },
    }


def read_tables(path: Path) -> dict[str, Table]:
    """Read a file of tables; what they are times of is logged, and a warning if of another processor than this one.

    Raises:
        UsageError: it is none, or of another version, or damaged.
    """
    record = read_json(path)
    try:
        if record["format"] != FORMAT:
            raise UsageError(f"{path}: format {record['format']}, this version reads {FORMAT}: measure anew")
        tables = {str(kind): _read_table(content) for kind, content in record["parts"].items()}
        measured_on = f"{record['processor']}, {record['instruction_set']}"
        if (arithmetic := record.get("arithmetic", "fp32")) not in RUNTIMES:  # files of before int8 have none
            raise ValueError(f"arithmetic {arithmetic!r}: must be one of {', '.join(RUNTIMES)}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: is no table of latencies: {' '.join(str(error).split())}") from None
    log.info("%s: milliseconds of %s", path, {"fp32": "PyTorch in fp32", "int8": "ONNX Runtime in int8"}[arithmetic])
    this = f"{cpu_info('model name')}, {instruction_set()}"
    if measured_on != this:
        log.warning("%s: its milliseconds were measured on %s, this processor is %s", path, measured_on, this)
    return tables


def _read_table(content: Mapping[str, Any]) -> Table:
    points = tuple(torch.tensor(each, dtype=torch.float64) for each in content["sizes"])
    milliseconds = torch.tensor(content["milliseconds"], dtype=torch.float64)
    ascending = all(each.dim() == 1 and len(each) > 1 and bool((each.diff() > 0).all()) for each in points)
    if not ascending or milliseconds.shape != tuple(len(each) for each in points) or not milliseconds.isfinite().all():
        raise ValueError("sizes must ascend, two of each at least, with finite milliseconds for every combination")
    if not ((milliseconds >= 0).all() and milliseconds.sum() > 0):
        raise ValueError("milliseconds must be 0 or more, and not all 0")
    return Table(points, milliseconds)
