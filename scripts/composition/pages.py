"""The HTML page about one run, with lattice pictures, the page that compares several runs, or an index of a folder of runs."""

import itertools
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig

from asr.data.batch import Unit
from asr.data.cache import SignalCache
from asr.foreign.files import Kind, read_text
from asr.foreign.terminal import log_to_stderr, say
from asr.models.transducer import Transducer
from asr.parts import build
from asr.reporting.index import index_page, read_entries, run_folders
from asr.reporting.lattice import LatticePicture
from asr.reporting.lattice_source import lattice_pictures
from asr.reporting.report import report
from asr.reporting.run import RunRecord, read_run
from asr.reporting.server import PageServer, Watched, state_of
from asr.runs.checkpoint import CheckpointError
from asr.runs.choice import check_checkpoint
from asr.runs.metrics import merge, metrics_files
from asr.runs.run_folder import RunFolder
from asr.training.evaluation import decode_batches
from asr.training.inference import load
from distributed.errors import UsageError
from scripts.composition.compose import compose, split_arguments
from scripts.composition.search import with_language_models
from scripts.composition.trained import load_trained

log = logging.getLogger(__name__)

PAGE = Kind("page", 1 << 30)
SIGNATURE = "Murmuration</title>"  # of pages that this program wrote


def run(arguments: list[str]) -> None:
    """Write the page about the run folders given in ``arguments`` (beside overrides), or serve it where it is watched."""
    log_to_stderr(logging.WARNING)
    overrides, runs = split_arguments(arguments)
    config = compose("report", overrides)
    check_checkpoint(config.checkpoint)
    if not runs:
        raise UsageError("no run given: python scripts/report.py exp/my-run, or exp for an index of all runs in it")
    found = run_folders(runs[0]) if len(runs) == 1 and runs[0].is_dir() else []
    page: Page = RunsPage(runs, config) if not found else IndexPage(runs[0], config)
    if config.watch:
        watch(page, config)
    else:
        say(str(save(page.written(), page.place, config.out)))


class Page(Protocol):
    """A page that can be written once, or made again and again."""

    place: Path | None
    """Where it is written unless told otherwise; None: a new comparison in the working directory."""

    def written(self) -> str:
        """The page as a file."""

    def watched(self) -> str:
        """The page as a server gives it out."""

    def sources(self) -> Iterable[Path]:
        """The files that it is made of."""


class RunsPage:
    """The page of a run, or of several compared with a baseline."""

    def __init__(self, runs: Sequence[Path], config: DictConfig) -> None:
        self.runs = runs
        self.config = config
        self.place = RunFolder(runs[0]).report if len(runs) == 1 else None
        self.baseline = baseline_of(runs, config.baseline)
        self._read: dict[Path, tuple[frozenset[tuple[str, int, int]], RunRecord]] = {}

    def written(self) -> str:
        for run in self.runs:
            if RunFolder(run).metrics.is_dir():
                merge(run)
        records = [read_run(run) for run in self.runs]
        pictures = lattices(self.runs[0], self.config) if len(self.runs) == 1 and self.config.lattices > 0 else []
        return report(records, pictures, baseline=self.baseline)

    def watched(self) -> str:
        records = [self._record(run) for run in self.runs]
        return report(records, baseline=self.baseline, watched_seconds=self.config.watch_seconds)

    def sources(self) -> Iterable[Path]:
        return itertools.chain.from_iterable(map(sources_of, self.runs))

    def _record(self, run: Path) -> RunRecord:
        """The run, read anew only where one of its files has changed."""
        state = state_of(sources_of(run))
        if run not in self._read or self._read[run][0] != state:
            self._read[run] = state, read_run(run)
        return self._read[run][1]


class IndexPage:
    """The page of a folder of runs."""

    def __init__(self, folder: Path, config: DictConfig) -> None:
        self.folder = folder
        self.config = config
        own = folder / "index.html"
        self.place: Path | None = own
        if config.baseline is not None:
            raise UsageError(f"baseline={config.baseline}: an index compares nothing; name runs: exp/one exp/another")
        is_foreign = own.is_file() and SIGNATURE not in read_text(own, PAGE)
        if is_foreign and config.out is None and not config.watch:
            raise UsageError(f"{own} was not written by this program; name another file with out=")

    def written(self) -> str:
        return index_page(self.folder, read_entries(run_folders(self.folder)))

    def watched(self) -> str:
        entries = read_entries(run_folders(self.folder))
        return index_page(self.folder, entries, watched_seconds=self.config.watch_seconds)

    def sources(self) -> Iterable[Path]:
        return itertools.chain.from_iterable(map(sources_of, run_folders(self.folder)))


def sources_of(run: Path) -> Iterable[Path]:
    """The files of a run that its page is made of."""
    folder = RunFolder(run)
    yield from (folder.config, folder.summary, *metrics_files(run), *folder.timelines.glob("*.json"))
    for evaluated in folder.evaluated():
        yield from (evaluated.figures, evaluated.transcripts)


def baseline_of(runs: Sequence[Path], wanted: str | None) -> int:
    """Number of the run that others are compared with: the first one, or that of the folder or the name ``wanted``."""
    if wanted is None:
        return 0
    found = [index for index, run in enumerate(runs) if Path(wanted) == run or wanted == run.name]
    if not found:
        raise UsageError(f"baseline={wanted}: must be one of the runs of the page: {', '.join(map(str, runs))}")
    return found[0]


def watch(page: Page, config: DictConfig) -> None:
    """Serve a page until somebody presses Ctrl-C."""
    if config.out is not None:
        raise UsageError(f"out={config.out}: a watched page is served and not written; leave out= or watch=true away")
    watched = Watched(page.watched, page.sources, config.watch_seconds)
    watched.page()  # an error is one now
    server = PageServer(watched, config.port)
    say(f"{server.address}  (Ctrl-C ends it)")
    with suppress(KeyboardInterrupt), server:
        server.serve_forever()


def save(page: str, own: Path | None, out: str | None) -> Path:
    """Write the page to ``out``, else to ``own``, the place of a single run's page, which is overwritten each time.

    A comparison without ``out`` overwrites nothing: it is comparison.html in the working directory, or -2, -3, ...
    """
    path = Path(out) if out is not None else own
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        return path
    number = 1
    while True:
        path = Path("comparison.html" if number == 1 else f"comparison-{number}.html")
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(page)
            return path
        number += 1


def lattices(run: Path, config: DictConfig) -> list[LatticePicture]:
    """Lattice pictures of the first utterances of a set; none where the run has no model or no such set yet."""
    try:
        return draw_lattices(run, config)
    except (UsageError, CheckpointError, OSError) as error:
        log.warning("no lattices: %s", error)
        return []


def draw_lattices(run: Path, config: DictConfig) -> list[LatticePicture]:
    """Decode the first utterances of a set with the run's model and score their lattices."""
    trained = load_trained(run, config.checkpoint, config.threads, config.device)
    model = trained.model
    if not isinstance(model, Transducer):
        raise UsageError(f"run={run}: its model has none (model._target_={trained.config.model._target_})")
    split = trained.speech.split(config.set)
    if not split.utterances:
        raise UsageError(f"set={config.set}: none of its utterances is usable")
    first = Unit(0, 0, 0, tuple(range(min(config.lattices, len(split.utterances)))))
    dataset = trained.speech.dataset(split, [], trained.config.seed, cache=SignalCache(limit_gb=0))
    decode = with_language_models(build(config.decode), model, trained.speech.tokenizer)
    inference = trained.inference()
    decoded = next(decode_batches(inference, load(dataset, [first]), decode), None)
    if decoded is None:
        raise UsageError(f"set={config.set}: none of its first utterances can be read")
    batch, hypotheses = decoded
    texts = [trained.speech.tokenizer.decode(hypothesis.tokens) for hypothesis in hypotheses]
    return lattice_pictures(
        model,
        inference.moved_to_model(batch),
        trained.speech.tokenizer,
        texts,
        limit=config.lattices,
        feature_frame_seconds=trained.speech.features.frame_seconds,
    )
