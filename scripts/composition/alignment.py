"""Alignment of a corpus with a trained run: a class for every encoder state of every utterance."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from asr.data.frame_targets import SUFFIX, write_alignment
from asr.data.tokenizer import BLANK
from asr.decoding.forced_alignment import Method, align_batch, chosen_method
from asr.foreign.terminal import log_to_stderr, say
from asr.runs.run_folder import RunFolder
from asr.training.evaluation import EvaluationSet
from distributed.errors import UsageError
from scripts.composition.compose import compose, split_arguments
from scripts.composition.evaluation import check_names, named_set
from scripts.composition.trained import Trained, load_configured

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Align the splits given in ``arguments`` (beside overrides) and print one line for each."""
    log_to_stderr()
    overrides, named = split_arguments(arguments)
    config = compose("align", overrides)
    sets = [str(each) for each in named] or list(config.sets)
    check_names(sets)
    trained = load_configured(config)
    chosen_method(trained.recogniser, config.method)
    folder = RunFolder(trained.folder).alignment if config.out is None else Path(config.out)
    for name in sets:
        evaluated = named_set(trained, name, config.unit_utterances)
        classes = align_set(trained, evaluated, config.method)
        path = folder / f"{evaluated.name}{SUFFIX}"
        seconds = trained.speech.features.frame_seconds * trained.model.subsampling
        write_alignment(path, classes, frame_seconds=seconds, tokenizer=trained.speech.tokenizer)
        say(f"{path}: {summary(classes, seconds, len(evaluated.screened.usable))}")


def align_set(trained: Trained, evaluated: EvaluationSet, method: Method) -> dict[str, Tensor]:
    """As ``alignable``, but an error where no utterance can be aligned.

    Raises:
        UsageError: no utterance can be aligned.
    """
    found = alignable(trained, evaluated, method)
    if not found:
        raise UsageError(
            f"{evaluated.name}: none of its utterances can be aligned; take smaller texts or larger tokens"
        )
    return found


def alignable(trained: Trained, evaluated: EvaluationSet, method: Method) -> dict[str, Tensor]:
    """The class of each state of every utterance, by id in the manifest's order; logs those that cannot be aligned."""
    inference = trained.inference()
    found: dict[str, Tensor] = {}
    for batch, paths in inference.over(evaluated.batches(), lambda batch: align_batch(inference.model, batch, method)):
        for utterance, path in zip(batch.utterance_ids, paths, strict=True):
            if path is None:
                log.warning("not aligned: %s has fewer states than its text needs", utterance)
            else:
                found[utterance] = path.cpu()
    log.info("%s: %s", evaluated.name, inference.statistics)
    return {each.id: found[each.id] for each in evaluated.screened.usable if each.id in found}


def summary(classes: dict[str, Tensor], frame_seconds: float, usable: int) -> str:
    """Line with the amount aligned and the share of blank; a model that always says blank errs on the rest."""
    everything = torch.cat(list(classes.values()))
    blank = float((everything == BLANK).double().mean())
    return (
        f"{len(classes)} of {usable} utterances, {len(everything)} targets of {1000 * frame_seconds:g} ms each, "
        f"{100 * blank:.1f} % of them blank"
    )
