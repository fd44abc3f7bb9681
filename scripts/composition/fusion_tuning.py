"""Weights of language models: n-best lists are made and scored once and rescored for every setting of a grid; searches refine the best."""

import itertools
import json
import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.data.batch import Batch
from asr.data.material import manifest_name
from asr.decoding.beam import BeamSearch
from asr.decoding.bootstrap import REPLICATIONS
from asr.decoding.comparison import Comparison, compare
from asr.decoding.fusion import text_scores
from asr.decoding.normalisation import TextNormalisation
from asr.decoding.rescoring import Lists, Weights, best_setting, chosen, word_errors
from asr.decoding.search import Hypothesis, Model, TokenModel
from asr.decoding.weight_search import Direction, directions, refined
from asr.decoding.wer import ErrorCounts, count_errors
from asr.foreign.terminal import log_to_stderr, say
from asr.parts import build
from asr.runs.run_folder import RunFolder
from asr.training.inference import states_of
from distributed.errors import UsageError
from scripts.composition.against import method_of
from scripts.composition.compose import compose
from scripts.composition.evaluation import named_set
from scripts.composition.search import language_models
from scripts.composition.trained import Trained, load_configured

log = logging.getLogger(__name__)

NO_MODELS = Weights(0.0, 0.0, 0.0)
TUNING_ALONE = (
    "set",
    "external_weights",
    "source_weights",
    "label_bonuses",
    "searches",
)  # keys that evaluate.py does not have


@dataclass(frozen=True, slots=True)
class Listed:
    """The n-best list of one utterance, with its scores."""

    hypotheses: list[Hypothesis]  # best first
    external: Tensor  # log probabilities (N,), zeros without a model
    source: Tensor
    errors: list[ErrorCounts]


def run(arguments: list[str]) -> None:
    """Print the table and the best setting, and save the results of all settings."""
    log_to_stderr()
    config = compose("tune_fusion", arguments)
    named, normalise = build(config.decode), build(config.text)
    if not isinstance(named, BeamSearch):
        raise UsageError(f"decode._target_={config.decode._target_}: gives no lists of hypotheses; choose decode=beam")
    if not named.fusion.names_models:
        raise UsageError("no language model: give the folder of one, decode.fusion.external=exp/my-lm")
    trained = load_configured(config)
    alone = without_models(config)
    alone.check(trained.recogniser)
    settings = grid(config, named)
    listed = collect(trained, config, named, alone, normalise)
    lists = as_lists(list(listed.values()))
    places_PU = chosen(lists, settings)
    errors_P = word_errors(lists, places_PU)
    best = best_setting(settings, errors_P)
    comparison = against_none(listed, places_PU[best], places_PU[settings.index(NO_MODELS)])
    words = sum(each.errors[0].reference_words for each in listed.values())
    rates = [float(errors) / max(words, 1) for errors in errors_P]
    report(settings, rates, best, comparison, float(lists.errors_UN.amin(1).sum()) / max(words, 1))
    winner, searched = settings[best], dict[Weights, float]()
    if config.searches:
        tried = Tried(trained, config, normalise)
        searched = refined(winner, tried.errors_of, directions_of(named), config.searches)
        winner = min(searched, key=searched.__getitem__)
        comparison = compare(tried.errors[winner], first_of(listed), replications=REPLICATIONS, seed=0)
        report_searches(searched, winner, words, comparison)
    record = {
        "best": asdict(winner),
        "comparison": asdict(comparison),
        **trained.origin,
        **method_of(config),
        "settings": [asdict(each) | {"wer": rate} for each, rate in zip(settings, rates, strict=True)],
        "searched": [asdict(each) | {"wer": errors / max(words, 1)} for each, errors in searched.items()],
    }
    path = RunFolder(trained.folder).evaluation(manifest_name(config.set), named.name).fusion
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    say(f"all {len(settings)} settings: {path}", command(arguments, winner))


def grid(config: DictConfig, named: BeamSearch) -> list[Weights]:
    """All settings of the grid; a model that is not named has weight 0. Always contains the one without any model."""
    external = config.external_weights if named.fusion.external is not None else [0.0]
    source = config.source_weights if named.fusion.source is not None else [0.0]
    settings = [Weights(*map(float, each)) for each in itertools.product(external, source, config.label_bonuses)]
    return settings if NO_MODELS in settings else [NO_MODELS, *settings]


def without_models(config: DictConfig) -> BeamSearch:
    """The search of the configuration, with the recogniser only."""
    decode = config.decode.copy()
    decode.fusion.update(external=None, source=None, label_bonus=0.0)
    search: BeamSearch = build(decode)
    return search


def collect(
    trained: Trained, config: DictConfig, named: BeamSearch, alone: BeamSearch, normalise: TextNormalisation
) -> dict[str, Listed]:
    """The n-best list of each utterance, from the search ``alone``, scored by the language models of ``named``."""
    models = language_models(named.fusion, trained.model, trained.speech.tokenizer)
    evaluated = named_set(trained, config.set, config.unit_utterances)
    inference, listed = trained.inference(), dict[str, Listed]()

    def scored(batch: Batch) -> tuple[list[list[Hypothesis]], list[list[Tensor]]]:
        states_BTD, lengths_B = states_of(inference.model, batch)
        lists = alone.n_best(cast(Model, inference.model), states_BTD, lengths_B)
        return lists, [by_list(model, lists, named.fusion.end_of_text, states_BTD) for model in models]

    for batch, (lists, scores) in inference.over(evaluated.batches(), scored):
        references = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
        for name, reference, found, external, source in zip(
            batch.utterance_ids, references, lists, scores[0], scores[1], strict=True
        ):
            listed[name] = Listed(found, external, source, word_counts(trained, normalise, reference, found))
    log.info("%s: %s", evaluated.name, inference.statistics)
    if not listed:
        raise UsageError(f"set={config.set}: none of its utterances is usable")
    return listed


def directions_of(named: BeamSearch) -> list[Direction]:
    """Where the weights of the search's language models can be moved."""
    return directions(external=named.fusion.external is not None, source=named.fusion.source is not None)


class Tried:
    """Searches the set with one setting after the other, language models in the search, and keeps the errors of each."""

    def __init__(self, trained: Trained, config: DictConfig, normalise: TextNormalisation) -> None:
        self.trained, self.config, self.normalise = trained, config, normalise
        self.evaluated = named_set(trained, config.set, config.unit_utterances)
        self.errors: dict[Weights, dict[str, ErrorCounts]] = {}  # by utterance

    def errors_of(self, weights: Weights) -> float:
        """The number of word errors with these weights."""
        inference, search = self.trained.inference(), self._search(weights)
        model = cast(Model, inference.model)
        found = self.errors[weights] = {}
        for batch, hypotheses in inference.over(
            self.evaluated.batches(), lambda batch: search(model, *states_of(inference.model, batch))
        ):
            references = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
            for name, reference, best in zip(batch.utterance_ids, references, hypotheses, strict=True):
                (found[name],) = word_counts(self.trained, self.normalise, reference, [best])
        errors = sum(each.errors for each in found.values())
        tried = f"external_weight {weights.external:g}, source_weight {weights.source:g}, label_bonus {weights.label_bonus:g}"
        log.info("%s: %s: %d word errors, %s", self.evaluated.name, tried, errors, inference.statistics)
        return errors

    def _search(self, weights: Weights) -> BeamSearch:
        decode = self.config.decode.copy()
        decode.fusion.update(
            external_weight=weights.external, source_weight=weights.source, label_bonus=weights.label_bonus
        )
        search: BeamSearch = build(decode)
        return search.with_models(*language_models(search.fusion, self.trained.model, self.trained.speech.tokenizer))


def first_of(listed: dict[str, Listed]) -> dict[str, ErrorCounts]:
    """The errors of the search without language models."""
    return {name: each.errors[0] for name, each in listed.items()}


def report_searches(searched: dict[Weights, float], winner: Weights, words: int, comparison: Comparison) -> None:
    """Print word error rates of all searches, and the gain of the best one."""
    say("", "| external_weight | source_weight | label_bonus | %WER in the search |", "|---|---|---|---|")
    for each, errors in searched.items():
        mark = "**" if each == winner else ""
        rate = f"{mark}{errors / max(words, 1):.2%}{mark}"
        say(f"| {each.external:g} | {each.source:g} | {each.label_bonus:g} | {rate} |")
    say(f"best of {len(searched)} searches: {difference(comparison)}")


def by_list(
    model: TokenModel | None, lists: Sequence[Sequence[Hypothesis]], end_of_text: bool, like: Tensor
) -> list[Tensor]:
    """log p (N,) of each list's texts by a language model, in device and dtype of ``like``; zeros without a model."""
    sizes = [len(each) for each in lists]
    if model is None:
        return [torch.zeros(size, dtype=torch.float64) for size in sizes]
    texts = [hypothesis.tokens for each in lists for hypothesis in each]
    return list(text_scores(model, texts, end_of_text, like.device, like.dtype).cpu().split(sizes))


def word_counts(
    trained: Trained, normalise: TextNormalisation, reference: tuple[list[int], int], found: Sequence[Hypothesis]
) -> list[ErrorCounts]:
    """Errors of each hypothesis against ``reference``, a padded row of tokens and its length."""
    decode, (row, length) = trained.speech.tokenizer.decode, reference
    spoken = normalise(decode(row[:length]))
    return [count_errors(spoken, normalise(decode(each.tokens))) for each in found]


def as_lists(listed: Sequence[Listed]) -> Lists:
    """The lists as padded tensors."""
    scores = [torch.tensor([each.score for each in one.hypotheses], dtype=torch.float64) for one in listed]
    labels = [torch.tensor([len(each.tokens) for each in one.hypotheses], dtype=torch.float64) for one in listed]
    errors = [torch.tensor([each.errors for each in one.errors], dtype=torch.float64) for one in listed]
    return Lists(
        log_prob_UN=pad_sequence(scores, batch_first=True, padding_value=-math.inf),
        external_UN=pad_sequence([one.external for one in listed], batch_first=True),
        source_UN=pad_sequence([one.source for one in listed], batch_first=True),
        labels_UN=pad_sequence(labels, batch_first=True),
        errors_UN=pad_sequence(errors, batch_first=True, padding_value=math.inf),
    )


def against_none(listed: dict[str, Listed], chosen_U: Tensor, without_U: Tensor) -> Comparison:
    """Compares a setting with the search without language models, utterance by utterance."""
    ours, other = (
        {name: one.errors[place] for (name, one), place in zip(listed.items(), places.tolist(), strict=True)}
        for places in (chosen_U, without_U)
    )
    return compare(ours, other, replications=REPLICATIONS, seed=0)


def report(
    settings: Sequence[Weights], rates: Sequence[float], best: int, comparison: Comparison, oracle: float
) -> None:
    """Print word error rates over both weights at the best bonus, and the gain of the best setting."""
    winner = settings[best]
    at_bonus = {
        (each.external, each.source): rate
        for each, rate in zip(settings, rates, strict=True)
        if each.label_bonus == winner.label_bonus
    }
    sources = sorted({source for _, source in at_bonus})
    say(f"%WER by external_weight (down) and source_weight (across), label_bonus {winner.label_bonus:g}")
    say("| |" + "".join(f" {source:g} |" for source in sources), "|---|" + "---|" * len(sources))
    for external in sorted({external for external, _ in at_bonus}):
        cells = (at_bonus.get((external, source)) for source in sources)
        say(f"| {external:g} |" + "".join(" |" if each is None else f" {each:.2%} |" for each in cells))
    say(f"best: {difference(comparison)}, best of every list {oracle:.2%}")


def difference(comparison: Comparison) -> str:
    """The gain of language models in words."""
    low, high = comparison.interval
    return (
        f"%WER {comparison.wer:.2%}, without language models {comparison.other_wer:.2%}, difference "
        f"{comparison.difference:+.2%} (95 % interval {low:+.2%} to {high:+.2%}, paired; chosen on this set, so "
        "that it flatters)"
    )


def command(arguments: Sequence[str], setting: Weights) -> str:
    """The evaluate.py command that uses ``setting`` during the search, with the run and set of ``arguments``."""
    weights = {
        "decode.fusion.external_weight": setting.external,
        "decode.fusion.source_weight": setting.source,
        "decode.fusion.label_bonus": setting.label_bonus,
    }
    keys = {each: each.partition("=")[0].lstrip("+") for each in arguments}
    kept = [each for each in arguments if keys[each] not in (*TUNING_ALONE, *weights)]
    search = [] if "decode" in keys.values() else ["decode=beam"]  # what this script has by default
    tuned = [f"{key}={weight}" for key, weight in weights.items()]
    return shlex.join(["python", "scripts/evaluate.py", *kept, *search, *tuned])
