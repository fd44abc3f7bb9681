"""A page about one run or several: python scripts/report.py exp/my-run [exp/another ...] [key=value ...]

One run: <run>/report.html, with the lattices of a few utterances. Several: report.html in the working directory.
"""

from pathlib import Path

import torch
from omegaconf import DictConfig

from asr.data.pipeline import unit_loader
from asr.reporting.lattice import LatticePicture
from asr.reporting.lattice_source import lattice_pictures
from asr.reporting.report import report
from asr.reporting.run import read_run
from asr.training.evaluation import decode_batch
from asr.training.metrics import merge
from scripts.build import build, readable
from scripts.configuration import compose, print_help
from scripts.evaluate import named_set
from scripts.startup import UsageError, run_main
from scripts.trained import load_trained


def main(arguments: list[str]) -> None:
    """Arguments with '=' are overrides, the others are run folders."""
    if print_help("report", arguments, __doc__ or ""):
        return
    config = compose("report", [argument for argument in arguments if "=" in argument])
    runs = [Path(argument) for argument in arguments if "=" not in argument]
    if not runs:
        raise UsageError("no run given: python scripts/report.py exp/my-run")
    for run in runs:
        if (run / "metrics").is_dir():
            merge(run)
    with readable():
        records = [read_run(run) for run in runs]
    pictures = lattices(runs[0], config) if len(runs) == 1 and config.lattices > 0 else []
    path = (runs[0] if len(runs) == 1 else Path()) / "report.html"
    path.write_text(report(records, pictures), encoding="utf-8")
    print(path)


def lattices(run: Path, config: DictConfig) -> list[LatticePicture]:
    """Lattice pictures of the first utterances of a set, decoded with the run's model."""
    trained = load_trained(run, config.checkpoint, config.threads)
    evaluated = named_set(trained, config.set, config.lattices)
    batch = next(unit_loader(evaluated.dataset, evaluated.units[-1:], num_workers=0, prefetch=1))
    _, hypotheses = decode_batch(
        trained.model, batch, build(config.decode), torch.device("cpu"), trained.config.trainer.precision
    )
    texts = [trained.speech.tokenizer.decode(hypothesis.tokens) for hypothesis in hypotheses]
    return lattice_pictures(
        trained.model,
        batch,
        trained.speech.tokenizer,
        texts,
        limit=config.lattices,
        feature_frame_seconds=trained.speech.features.frame_shift_ms / 1000,
    )


if __name__ == "__main__":
    run_main(main)
