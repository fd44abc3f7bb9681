"""Which runs decode a split: one all of it, or, of runs that each left out a fold of the training set, each what it has not heard."""

import logging
from collections.abc import Sequence

from omegaconf import DictConfig, ListConfig

from asr.data.folds import DIVIDED
from asr.data.material import Split
from asr.data.nbest import corpus_of
from distributed.errors import UsageError
from scripts.composition.trained import Trained, load_configured

log = logging.getLogger(__name__)

REMEDY = "train runs that differ in fold.leave_out alone"


def load_runs(config: DictConfig) -> list[Trained]:
    """The run that ``run`` names; of a list of runs all, in the order of the folds that they left out.

    Raises:
        UsageError: the listed runs are not those of one division of one training set.
    """
    if not isinstance(config.run, ListConfig):
        return [load_configured(config)]
    if config.out is None:
        raise UsageError(
            "out=null: lists by several runs belong to the folder of none; set out=exp/crossed, for example"
        )
    if config.split != DIVIDED:
        raise UsageError(
            f"split={config.split}: several runs decode the split that has folds, which is {DIVIDED}; "
            "leave split out, or give one run"
        )
    runs = [load_configured(_of_run(config, folder)) for folder in config.run]
    refuse_differing(runs)
    return by_fold(runs)


def _of_run(config: DictConfig, folder: str) -> DictConfig:
    one: DictConfig = config.copy()
    one.run = folder
    return one


def refuse_differing(runs: Sequence[Trained]) -> None:
    """Refuse runs whose hypotheses would not make one set of lists."""
    if not runs:
        raise UsageError(f"run=[]: give one run, or several that each left out a fold; {REMEDY}")
    for each in runs:
        if each.speech.fold.leave_out is None:
            raise UsageError(
                f"run={each.folder}: it left no fold out (fold.leave_out=null), so that it has heard everything; {REMEDY}"
            )
        if each.config.init_from is not None:
            log.warning(
                "run=%s: it began at init_from=%s; had that heard the fold, its lists would be a model's own, not a stranger's",
                each.folder, each.config.init_from,
            )  # fmt: skip
    first = runs[0]
    for other in runs[1:]:
        for key, one, another in (
            ("fold.of", first.speech.fold.of, other.speech.fold.of),
            ("fold.by", first.speech.fold.by, other.speech.fold.by),
            ("trainer.precision", first.precision, other.precision),
        ):
            if one != another:
                raise UsageError(f"run={other.folder}: {key}={another}, but {one} in {first.folder}; {REMEDY}")
        if other.config.features != first.config.features:
            raise UsageError(f"run={other.folder}: it hears other features than {first.folder}; {REMEDY}")
        if other.speech.tokenizer.fingerprint != first.speech.tokenizer.fingerprint:
            raise UsageError(f"run={other.folder}: it writes other tokens than {first.folder}; {REMEDY}")


def by_fold(runs: Sequence[Trained]) -> list[Trained]:
    """The runs in the order of their folds; UsageError where a fold is missing or twice."""
    found: dict[int, Trained] = {}
    for each in runs:
        number = each.speech.fold.leave_out
        assert number is not None
        if number in found:
            raise UsageError(
                f"run={each.folder}: it left out fold {number}, as {found[number].folder} did; give one run for each fold"
            )
        found[number] = each
    numbers = range(1, runs[0].speech.fold.of + 1)
    if missing := [number for number in numbers if number not in found]:
        raise UsageError(
            f"run=[...]: none of the runs left out fold {', '.join(map(str, missing))} of {len(numbers)}; "
            f"train one with fold.leave_out={missing[0]}"
        )
    return [found[number] for number in numbers]


def dealt(runs: Sequence[Trained], name: str) -> tuple[Split, Sequence[int]]:
    """The split to decode, and for each of its utterances the place in ``runs`` of the run that decodes it.

    Raises:
        UsageError: the runs were not trained on parts of the same utterances.
    """
    first, *others = runs
    if not others:
        split = first.speech.split(name)
        return split, [0] * len(split.utterances)
    whole, folds = _divided(first)
    corpus = corpus_of(whole.utterances)
    for other in others:
        theirs, their_folds = _divided(other)
        if corpus_of(theirs.utterances) != corpus or their_folds != folds:
            raise UsageError(
                f"run={other.folder}: its training set is another one than that of {first.folder} (data, texts, durations, "
                f"speakers, order, or what was refused); {REMEDY}"
            )
    return whole, [number - 1 for number in folds]


def _divided(trained: Trained) -> tuple[Split, list[int]]:
    """The whole training set of a run, and the fold of each utterance."""
    whole = trained.speech.undivided.split(DIVIDED)
    return whole, trained.speech.folds(whole.utterances)
