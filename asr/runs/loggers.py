"""Sinks that show metric rows elsewhere than in the JSONL files, and the run's text log.

A sink gets the very rows that ``MetricsWriter.write`` returned, keys and numbers untouched: both show the same metrics, in
the groups that the words before the slash make, with samples and seconds to draw them over; the configuration; and at the
end the tables of ``tables.py``. Both put ``global_step`` on the axis, so that runs with different numbers of learners lie
over each other, and start at the first row, so that a run that fails before it leaves nothing behind. A sink that breaks is reported in one line and
dropped: training goes on, and metrics/*.jsonl has everything.
"""

import json
import logging
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from asr.foreign.files import TRANSCRIPT, read_text
from asr.foreign.terminal import ShownFormatter
from asr.runs.metrics import Row
from asr.runs.run_folder import RunFolder
from asr.runs.tables import best_evaluation_figures, flat, markdown, tables_of
from distributed.errors import UserError
from distributed.ranges import Count

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from wandb import Run

PLACES = ("epoch", "samples", "wall_seconds")  # keys of a row that say where the run stood
PACKAGES = ("asr", "distributed", "compression", "scripts", "__main__")

log = logging.getLogger(__name__)


class Logger(Protocol):
    """A sink that shows rows."""

    def log(self, row: Row) -> None:
        """Show one row: an evaluation if it has keys under ``eval/``, else a training step."""

    def close(self) -> None:
        """Flush what is buffered; safe to call twice."""


def figures(row: Row) -> dict[str, float]:
    """The metrics of a row that are plotted as curves: every key with a slash (train/loss, ...), and what it stands at."""
    return {
        key: value
        for key, value in row.items()
        if ("/" in key or key in PLACES) and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


class TensorBoardLogger:
    """Event files under <run folder>/tensorboard. A resumed run hides the events after its checkpoint."""

    def __init__(self, *, flush_seconds: Count, folder: Path, settings: Mapping[str, Any]) -> None:
        self.flush_seconds = flush_seconds
        self.folder = folder
        self.settings = settings
        self._writer: SummaryWriter | None = None

    def log(self, row: Row) -> None:
        step = int(row["global_step"])
        if self._writer is None:
            self._writer = self._start(step)
        for key, value in figures(row).items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        if self._writer is not None:
            try:
                self._write_tables(self._writer)
            except (UserError, OSError) as error:
                log.warning("TensorBoard gets no tables: %s", error)
            self._writer.close()
            self._writer = None

    def _write_tables(self, writer: "SummaryWriter") -> None:
        for table in tables_of(self.folder):
            writer.add_text(f"tables/{table.name}", markdown(table))
        best = {f"best/{key}": value for key, value in best_evaluation_figures(self.folder).items()}
        if best:  # the table of runs, in the tab of hyperparameters; "." is the run's own folder
            writer.add_hparams(flat(self.settings), best, run_name=".")

    def _start(self, first_step: int) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # seconds to import: only where it is used

        writer = SummaryWriter(
            str(RunFolder(self.folder).tensorboard), purge_step=first_step, flush_secs=self.flush_seconds
        )
        text = json.dumps(self.settings, indent=2, default=str)
        writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()), first_step)
        return writer


class WandbLogger:
    """Weights & Biases: online where a key is configured, otherwise offline under <run folder>/wandb.

    The key is wandb's own business (``wandb login``, its settings, its environment). The id of the run is kept in its
    folder, so that a resumed run goes on in the same place; offline parts are joined with ``wandb sync --append``.
    """

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        group: str | None,
        mode: Literal["auto", "online", "offline"],
        start_timeout_seconds: Count,
        folder: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self.project = project
        self.entity = entity
        self.group = group
        self.mode = mode
        self.start_timeout_seconds = start_timeout_seconds
        self.folder = folder
        self.settings = settings
        self._run: Run | None = None
        self._dropped = False

    def log(self, row: Row) -> None:
        if self._dropped:
            return
        import wandb  # seconds to import: only where it is used

        try:
            if self._run is None:
                self._run = self._start()
            self._run.log({"global_step": row["global_step"], **figures(row)})
        except (wandb.Error, OSError) as error:
            self._drop(error)

    def close(self) -> None:
        if self._run is None or self._dropped:
            return
        import wandb

        try:
            for table in tables_of(self.folder):
                shown = wandb.Table(columns=list(table.header), data=[list(row) for row in table.rows])
                self._run.log({f"tables/{table.name}": shown})
            self._run.finish()
        except (wandb.Error, UserError, OSError) as error:
            self._drop(error)
        self._run = None

    def _start(self) -> "Run":
        import wandb

        mode = wandb_mode() if self.mode == "auto" else self.mode
        RunFolder(self.folder).wandb.mkdir(parents=True, exist_ok=True)  # else wandb falls back to a temporary folder
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            name=self.folder.name,
            id=_run_id(RunFolder(self.folder).wandb / "run-id.txt"),
            dir=self.folder,
            config=dict(self.settings),
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(console="off", silent=True, init_timeout=self.start_timeout_seconds),
        )
        run.define_metric("*", step_metric="global_step")
        run.define_metric("eval/*", step_metric="global_step", summary="min")  # the table of runs shows the best
        log.info("Weights & Biases: %s", run.url or f"{mode}, in {RunFolder(self.folder).wandb}")
        return run

    def _drop(self, error: Exception) -> None:
        self._dropped = True
        reason = " ".join(str(error).split())
        log.warning("Weights & Biases is off for this run (%s); logger.wandb.mode=offline needs no server", reason)


def wandb_mode() -> Literal["online", "offline", "disabled"]:
    """The mode set in wandb, where the user chose one; else online if wandb finds credentials. Never prompts."""
    import wandb

    configured = wandb.setup().settings.mode
    if configured in ("offline", "disabled"):
        return "disabled" if configured == "disabled" else "offline"
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def _run_id(path: Path) -> str:
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return read_text(path, TRANSCRIPT).strip()


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``: a progress bar replaces that to print lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def setup_logging(folder: Path, rank: int) -> None:
    """Send the standard logging module to <folder>/logs/rank-<rank>.log and to stderr; calling again replaces both.

    The file gets everything from INFO on (other libraries: WARNING). On stderr rank 0 shows the same, the others
    errors alone, with their rank.
    """
    path = RunFolder(folder).log_of(rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(ShownFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console = _Stderr()
    console.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    console.setFormatter(ShownFormatter("%(message)s" if rank == 0 else f"[rank {rank}] %(message)s"))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if (handler.name or "").startswith("murmuration-")]:
        root.removeHandler(old)
        old.close()
    for name, handler in (("file", file), ("console", console)):
        handler.name = f"murmuration-{name}"
        root.addHandler(handler)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO)
    logging.captureWarnings(True)
