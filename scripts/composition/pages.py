"""The HTML page about one run, with lattice pictures, or the page that compares several runs."""

import logging
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig

from asr.data.batch import Unit
from asr.data.cache import SignalCache
from asr.foreign.terminal import log_to_stderr, say
from asr.models.transducer import Transducer
from asr.parts import build
from asr.reporting.lattice import LatticePicture
from asr.reporting.lattice_source import lattice_pictures
from asr.reporting.report import report
from asr.reporting.run import read_run
from asr.runs.checkpoint import CheckpointError
from asr.runs.choice import check_checkpoint
from asr.runs.metrics import merge
from asr.runs.run_folder import RunFolder
from asr.training.evaluation import decode_batches
from asr.training.inference import load
from distributed.errors import UsageError
from scripts.composition.compose import compose, split_arguments
from scripts.composition.search import with_language_models
from scripts.composition.trained import load_trained

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Write the page about the run folders given in ``arguments`` (beside overrides)."""
    log_to_stderr(logging.WARNING)
    overrides, runs = split_arguments(arguments)
    config = compose("report", overrides)
    check_checkpoint(config.checkpoint)
    if not runs:
        raise UsageError("no run given: python scripts/report.py exp/my-run")
    for run in runs:
        if RunFolder(run).metrics.is_dir():
            merge(run)
    records = [read_run(run) for run in runs]
    pictures = lattices(runs[0], config) if len(runs) == 1 and config.lattices > 0 else []
    page = report(records, pictures)
    say(str(save(page, RunFolder(runs[0]).report if len(runs) == 1 else None, config.out)))


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
