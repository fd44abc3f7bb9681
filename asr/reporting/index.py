"""A page about a folder of runs, such as exp/: a line for each, the newest first, with a link to the run's own page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from asr.reporting import text
from asr.reporting.figures import best_evaluation, file_bytes, samples_per_second
from asr.reporting.page import Section, join, render, table, tag
from asr.reporting.run import RunRecord, read_run
from asr.reporting.words import backend_word, model_word
from asr.runs.metrics import SHOWN
from asr.runs.run_folder import RunFolder
from distributed.errors import UserError

HEADER = (
    "run", "state", "backend", "learners", "model", "WER", "best while training", "at step", "samples", "training time",
    "samples per second", "size",
)  # fmt: skip
RESULTS = 3  # word error rates of a line


@dataclass(frozen=True, slots=True)
class Entry:
    """A run of the folder, or why it cannot be read."""

    folder: Path
    record: RunRecord | None
    problem: str = ""


def run_folders(folder: Path) -> list[Path]:
    """The folders of runs that lie in ``folder``, newest first by their rows; empty if it is itself one, or holds none."""
    if is_run(folder):
        return []
    return sorted(filter(is_run, folder.iterdir()), key=_changed, reverse=True)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    run = RunFolder(folder)
    return run.config.is_file() or run.metrics.is_dir()


def _changed(folder: Path) -> tuple[float, str]:
    run = RunFolder(folder)
    times = [path.stat().st_mtime for path in (run.config, run.metrics, *run.metrics.glob("*.jsonl")) if path.exists()]
    return max(times, default=0.0), folder.name


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """The runs, each on its own: one that is damaged is an entry that says so."""
    entries = []
    for folder in folders:
        try:
            entries.append(Entry(folder, read_run(folder)))
        except (UserError, OSError) as error:
            entries.append(Entry(folder, None, " ".join(str(error).split())))
    return entries


def index_page(folder: Path, entries: Sequence[Entry], *, watched_seconds: int | None = None) -> str:
    """The page of a folder of runs; links are relative to it. A watched page has none: its server has no other page."""
    rows = [line(entry, linked=watched_seconds is None) for entry in entries]
    numbers = (3, 5, *range(7, len(HEADER)))
    listed = tag("div", table(HEADER, rows, f"Runs in {folder.name}", numbers=numbers), id="runs")
    label = "Show runs whose lines contain"
    search = tag("input", type="search", placeholder="words of a line", aria_label=label, data_filters="runs")
    top = join((
        tag("p", "Murmuration", class_="kicker"),
        tag("h1", f"{len(entries)} runs in {folder.name}"),
        tag("div", search, class_="controls", hidden=""),
    ))  # fmt: skip
    problems = [tag("li", tag("b", entry.folder.name), f": {entry.problem}") for entry in entries if entry.problem]
    sections = [Section("Runs", listed)]
    if problems:
        sections.append(Section("Runs that cannot be read", tag("ul", *problems)))
    return render(f"{folder.name} – Murmuration", sections, top, watched_seconds=watched_seconds)


def line(entry: Entry, linked: bool) -> list[str]:
    """The cells of a run."""
    name, run = entry.folder.name, entry.record
    if run is None:
        return [name, "cannot be read", *[text.MISSING] * (len(HEADER) - 2)]
    has_page = linked and RunFolder(entry.folder).report.is_file()
    shown = tag("a", name, href=f"{quote(name)}/{RunFolder(Path()).report.name}") if has_page else name
    best, speed = best_evaluation(run), samples_per_second(run)
    evaluated = join(tag("div", f"{each.title} ", tag("b", text.percent(each.wer))) for each in run.results[:RESULTS])
    size = file_bytes(run)
    return [
        shown,
        "finished" if run.summary else "not finished",
        backend_word(run.config) or text.MISSING,
        str(run.learners),
        model_word(run.config) or text.MISSING,
        evaluated or text.MISSING,
        text.MISSING if best is None else f"{best.set_name}: {SHOWN[best.measure](best.value)}",
        text.MISSING if best is None else text.count(best.global_step),
        text.count(run.most("samples")),
        text.duration(run.most("wall_seconds")),
        text.figure(speed),
        text.compact_bytes(size) if math.isfinite(size) else text.MISSING,
    ]
