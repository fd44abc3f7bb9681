"""A page about one run or several: python scripts/report.py exp/my-run [exp/another ...] [key=value ...]

One run: <run>/report.html, with the lattices of a few utterances. Several: report.html in the working directory.
"""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from asr.data.batch import Unit
from asr.data.cache import SignalCache
from asr.data.pipeline import unit_loader
from asr.models.transducer import Transducer
from asr.reporting.lattice import LatticePicture
from asr.reporting.lattice_source import lattice_pictures
from asr.reporting.report import report
from asr.reporting.run import read_run
from asr.training.checkpoint import CheckpointError
from asr.training.evaluation import decode_batch
from asr.training.metrics import merge
from scripts.build import build, readable
from scripts.configuration import compose, print_help, split_arguments
from scripts.search import with_language_models
from scripts.startup import UsageError, run_main
from scripts.trained import check_checkpoint, load_trained

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Folders of runs, and overrides."""
    if print_help("report", arguments, __doc__ or ""):
        return
    overrides, runs = split_arguments(arguments)
    config = compose("report", overrides)
    check_checkpoint(config.checkpoint)
    if not runs:
        raise UsageError("no run given: python scripts/report.py exp/my-run")
    with readable():
        for run in runs:
            if (run / "metrics").is_dir():
                merge(run)
        records = [read_run(run) for run in runs]
    pictures = lattices(runs[0], config) if len(runs) == 1 and config.lattices > 0 else []
    path = (runs[0] if len(runs) == 1 else Path()) / "report.html"
    path.write_text(report(records, pictures), encoding="utf-8")
    print(path)


def lattices(run: Path, config: DictConfig) -> list[LatticePicture]:
    """Lattice pictures of the first utterances of a set; none where the run has no model or no such set yet."""
    try:
        with readable():
            return draw_lattices(run, config)
    except (UsageError, CheckpointError, OSError) as error:
        log.warning("no lattices: %s", error)
        return []


def draw_lattices(run: Path, config: DictConfig) -> list[LatticePicture]:
    """Decode the first utterances of a set with the run's model and score their lattices."""
    trained = load_trained(run, config.checkpoint, config.threads)
    model = trained.model
    if not isinstance(model, Transducer):
        raise UsageError(f"run={run}: its model has none (model._target_={trained.config.model._target_})")
    split = trained.speech.split(config.set)
    if not split.utterances:
        raise UsageError(f"set={config.set}: none of its utterances is usable")
    first = Unit(0, 0, 0, tuple(range(min(config.lattices, len(split.utterances)))))
    dataset = trained.speech.dataset(split, [], trained.config.seed, cache=SignalCache(limit_gb=0))
    batch = next(unit_loader(dataset, [first], num_workers=0, prefetch=1))
    decode = with_language_models(build(config.decode), model, trained.speech.tokenizer)
    hypotheses = decode_batch(model, batch, decode, torch.device("cpu"), trained.precision)
    texts = [trained.speech.tokenizer.decode(hypothesis.tokens) for hypothesis in hypotheses]
    return lattice_pictures(
        model,
        batch,
        trained.speech.tokenizer,
        texts,
        limit=config.lattices,
        feature_frame_seconds=trained.speech.features.frame_seconds,
    )


if __name__ == "__main__":
    run_main(main)
