"""Evaluation of a trained run: decodes sets, scores them and writes the results into the run's folder."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from asr.data.cache import SignalCache
from asr.data.folds import LEFT_OUT
from asr.data.material import manifest_name, refuse_doubles
from asr.decoding.normalisation import TextNormalisation
from asr.decoding.results import SetResult, summary_table, write_results
from asr.foreign.terminal import log_to_stderr, say
from asr.parts import build
from asr.runs.run_folder import RunFolder
from asr.training.evaluation import EvaluationSet, decode_set
from asr.training.measures import Decode
from scripts.composition.against import command_for, method_of, read_earlier, write_against
from scripts.composition.build import evaluation_set
from scripts.composition.compose import compose
from scripts.composition.search import with_language_models
from scripts.composition.trained import Trained, load_configured

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test", LEFT_OUT)  # of corpora, and what a run has left out


def run(arguments: list[str]) -> None:
    """Evaluate every set and print one line for each, and one for each comparison."""
    log_to_stderr()
    config = compose("evaluate", arguments)
    check_names(config.sets)
    normalise, decode = build(config.text), build(config.decode)
    names = [manifest_name(each) for each in config.sets]
    trained = load_configured(config)
    root = RunFolder(trained.folder if config.weights is None else Path(config.weights))
    decode = with_language_models(decode, trained.model, trained.speech.tokenizer)
    decode.check(trained.recogniser)
    method = method_of(config)
    against = None if config.against is None else Path(config.against)
    earlier = read_earlier(against, names, decode.name, method, command_for(against, arguments)) if against else {}
    say(f"{trained.folder}: {trained.checkpoint}, {decode.name} search, {trained.inference().arithmetic}")
    record = trained.origin | method | {"precision": trained.precision, "device": trained.device.type}
    results = [
        evaluate_set(trained, each, config.unit_utterances, decode, normalise, record, root) for each in config.sets
    ]
    write_summary(root, decode.name, results)
    if against is not None:
        for each in results:
            old = earlier[each.name]
            say(write_against(root.evaluation(each.name, decode.name), against, old, each, trained.checkpoint))


def evaluate_set(
    trained: Trained,
    name: str,
    unit_utterances: int,
    decode: Decode,
    normalise: TextNormalisation,
    record: dict[str, Any],
    root: RunFolder,
) -> SetResult:
    """Decode and score a set, write its files below ``root`` and print its line."""
    evaluated = named_set(trained, name, unit_utterances)
    inference = trained.inference()
    decoded = decode_set(inference, evaluated.batches(), decode=decode, tokenizer=trained.speech.tokenizer)
    spoken = [each for each in evaluated.screened.usable if each.id in decoded.references]
    references, hypotheses = (
        {
            each.id: normalise(texts[each.id]) for each in spoken
        }  # in the manifest's order, however it was cut into units
        for texts in (decoded.references, decoded.hypotheses)
    )
    speakers = {each.id: each.speaker for each in spoken}
    speed = {"real_time_factor": inference.statistics.real_time_factor, "threads": torch.get_num_threads()}
    files = root.evaluation(evaluated.name, decode.name)
    result = write_results(files, references, hypotheses, speakers, record | speed)
    say(result.line)
    log.info("%s: %s", evaluated.name, inference.statistics)
    return result


def write_summary(root: RunFolder, decode: str, results: Sequence[SetResult]) -> None:
    """Write eval/summary-<decode>.txt with the sets of this call; print it where there are several."""
    if results:
        table = summary_table(results)
        root.evaluation_summary(decode).write_text(table, encoding="utf-8")
        if len(results) > 1:
            say(*table.splitlines())


def check_names(sets: Sequence[str]) -> None:
    """Refuse sets whose results in eval/<name> would overwrite those of another set, of this call or an earlier one."""
    refuse_doubles("sets", sets, [manifest_name(each) for each in sets], SPLITS)


def named_set(trained: Trained, name: str, unit_utterances: int) -> EvaluationSet:
    """The set called ``name``: a split of the run's corpus, or a manifest given by its path."""
    config: DictConfig = trained.config.copy()
    with open_dict(config):
        config.evaluation.unit_utterances = unit_utterances
    return evaluation_set(config, trained.material, name, cache=SignalCache(limit_gb=0))
