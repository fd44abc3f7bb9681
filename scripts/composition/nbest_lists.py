"""N-best lists of a training set, decoded shard by shard by processes that do not wait for each other."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from asr.data.batch import Batch, Unit
from asr.data.cache import SignalCache
from asr.data.manifest import Utterance
from asr.data.nbest import FORMAT, HEADER, Header, NBest, corpus_of, read_header, shard_file, truth_of
from asr.data.pipeline import UnitDataset
from asr.data.plan import Budgets, chunk
from asr.decoding.search import Hypothesis, Model, NBestSearch
from asr.foreign.terminal import log_to_stderr, say
from asr.parts import build
from asr.runs.console import clock
from asr.runs.files import create_atomically, write_atomically
from asr.runs.fingerprint import weights_fingerprint
from asr.runs.run_folder import RunFolder
from asr.training.inference import Statistics, load, states_of
from distributed.errors import LearnerError, UsageError
from distributed.keyed import keyed_seed
from distributed.learners.environment import place
from scripts.composition.build import Split
from scripts.composition.compose import compose, differing_keys
from scripts.composition.crossing import dealt, load_runs
from scripts.composition.search import language_model_fingerprints, search_of, with_language_models
from scripts.composition.trained import Trained

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Decode the missing shards that are this process's share, and print one line for each."""
    log_to_stderr()
    here = place()
    config = compose("make_nbest", arguments)
    check_lengths(config)
    named, runs = build(config.decode), load_runs(config)
    search = cast(NBestSearch, with_language_models(named, runs[0].model, runs[0].speech.tokenizer))
    for each in runs:
        search.check(each.recogniser)
    split, places = dealt(runs, config.split)
    header = header_of(runs, split, search, config)
    folder = RunFolder(runs[0].folder).nbest(split.name) if config.out is None else Path(config.out)
    begin(folder, header)
    own = range(here.rank, header.shards, here.size)
    missing = [shard for shard in own if not shard_file(folder, shard).is_file()]
    statistics = Statistics()
    decoders = [Decoder(each, split, search, config.unit_utterances, statistics) for each in runs]
    try:
        write_shards(Shards(decoders, places, split, header), folder, missing)
    except UsageError as error:  # from here on processes may fail one by one: each says so
        raise LearnerError(str(error)) from error
    if missing:
        log.info("%s", statistics)
    say(f"{folder}: {len(missing)} shards written, {len(own) - len(missing)} of {len(own)} were there")


def write_shards(shards: "Shards", folder: Path, missing: Sequence[int]) -> None:
    """Decode and write the shards that are missing; one line for each."""
    begun = time.perf_counter()
    for written, shard in enumerate(missing, start=1):
        started = time.perf_counter()
        lists = shards.lists(shard)
        write_atomically(shard_file(folder, shard), "".join(each.line() for each in lists))
        now = time.perf_counter()
        eta = clock((now - begun) / written * (len(missing) - written))
        line = "shard %d of %d: %d utterances in %.1f s, ETA %s"
        log.info(line, shard + 1, shards.header.shards, len(lists), now - started, eta)


def check_lengths(config: DictConfig) -> None:
    """Refuse a search whose lists are shorter than the number of hypotheses to keep, which the header states."""
    wanted, returned = config.hypotheses, config.decode.n_best
    if returned < wanted:
        raise UsageError(
            f"hypotheses={wanted} decode.n_best={returned}: the search would return fewer hypotheses than are to be kept; "
            f"leave decode.n_best out, set it to {wanted} or more, or hypotheses={returned}"
        )


def header_of(runs: Sequence[Trained], split: Split, search: NBestSearch, config: DictConfig) -> Header:
    """The header that records the models, data and search of this call's lists; of several runs their names in a row."""
    weights = [weights_fingerprint(each.model) for each in runs]
    return Header(
        format=FORMAT,
        tokenizer=runs[0].speech.tokenizer.fingerprint,
        run=", ".join(str(each.folder.resolve()) for each in runs),
        checkpoint=", ".join(each.checkpoint for each in runs),
        weights=weights[0] if len(weights) == 1 else keyed_seed(*weights),
        search=search_of(config.decode),
        language_models=language_model_fingerprints(search),
        hypotheses=config.hypotheses,
        split=split.name,
        utterances=len(split.utterances),
        corpus=corpus_of(split.utterances),
        shard_utterances=config.shard_utterances,
    )


def begin(folder: Path, header: Header) -> None:
    """Write the header, or compare it with the one there; every process does so before its first shard.

    Of processes that begin together, on one machine or several, one writes it and all others compare theirs with it.

    Raises:
        UsageError: the folder holds lists with another header (the message says what differs), or shards without any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.jsonl")) and not (folder / HEADER).is_file():
        raise UsageError(f"{folder} holds shards without {HEADER}: choose another out=, or remove the folder")
    if create_atomically(folder / HEADER, header.text()):
        return
    there, here = OmegaConf.create(asdict(read_header(folder))), OmegaConf.create(asdict(header))
    if differing := differing_keys(there, here):
        values = [
            f"{key} ({OmegaConf.select(there, key)} there, {OmegaConf.select(here, key)} here)" for key in differing
        ]
        raise UsageError(
            f"{folder} holds lists of another {', '.join(values)}: repeat their command to go on, choose another out=, "
            "or remove the folder (only these two help where a run was trained on or anew since; let it end first)"
        )


class Decoder:
    """Decodes utterances of a split by one run, in one process."""

    def __init__(
        self, trained: Trained, split: Split, search: NBestSearch, unit_utterances: int, statistics: Statistics
    ) -> None:
        self.split = split
        self.search = search
        batch = trained.config.batch
        self.budgets = Budgets(unit_utterances, batch.max_frames, batch.max_cells)
        self.inference = replace(trained.inference(), statistics=statistics)
        self.dataset: UnitDataset = trained.speech.dataset(split, [], trained.config.seed, SignalCache(limit_gb=0))

    def hypotheses(self, members: Sequence[int]) -> dict[str, list[Hypothesis]]:
        """What the search finds for the utterances of these indices, by id; unreadable utterances are logged and left out."""
        found: dict[str, list[Hypothesis]] = {}
        for batch, lists in self.inference.over(load(self.dataset, self.units(members)), self.n_best):
            found |= zip(batch.utterance_ids, lists, strict=True)
        return found

    def n_best(self, batch: Batch) -> list[list[Hypothesis]]:
        """The lists of a batch's utterances."""
        model = self.inference.model
        return self.search.n_best(cast(Model, model), *states_of(model, batch))

    def units(self, members: Sequence[int]) -> Sequence[Unit]:
        """Units of similar length; without targets, since decoding has no lattice."""
        frames = self.split.screened.frames
        order = sorted(members, key=frames.__getitem__)
        units = chunk(order, frames, frames, [0] * len(frames), self.budgets)
        return [Unit(0, index, 0, tuple(unit)) for index, unit in enumerate(units)]


class Shards:
    """The shards of a split, whose utterances several decoders share: ``places`` has that of each utterance."""

    def __init__(self, decoders: Sequence[Decoder], places: Sequence[int], split: Split, header: Header) -> None:
        self.decoders = decoders
        self.places = places
        self.split = split
        self.header = header

    def lists(self, shard: int) -> list[NBest]:
        """The lists of a shard's utterances, ordered by id; those of unreadable utterances are empty."""
        found: dict[str, list[Hypothesis]] = {}
        for own, decoder in enumerate(self.decoders):
            found |= decoder.hypotheses([index for index in self.members(shard) if self.places[index] == own])
        members = sorted((self.split.utterances[index] for index in self.members(shard)), key=lambda each: each.id)
        return [self._list(each, found.get(each.id, [])) for each in members]

    def members(self, shard: int) -> range:
        """Indices of a shard's utterances in the split."""
        begin = shard * self.header.shard_utterances
        return range(begin, min(begin + self.header.shard_utterances, self.header.utterances))

    def _list(self, utterance: Utterance, found: Sequence[Hypothesis]) -> NBest:
        kept = found[: self.header.hypotheses]
        return NBest(utterance.id, truth_of(utterance), [each.tokens for each in kept], [each.score for each in kept])
