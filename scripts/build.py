"""The composition root: from a checked configuration to the parts of a run, each built exactly once.

Parts are handed over ready-made; no class of the project builds another one from a configuration.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from asr.data.batch import Unit
from asr.data.corpus import Corpus
from asr.data.features import LogMel
from asr.data.manifest import Utterance, read_manifest
from asr.data.pipeline import BatchHook, UnitDataset
from asr.data.plan import BatchPlan, Budgets, chunk
from asr.data.screening import Screened, refusal_summary, screen
from asr.data.tokenizer import Tokenizer, load_tokenizer
from asr.models.transducer import Transducer
from asr.training.evaluation import EvaluationSet
from asr.training.hook import Hook
from distributed.backend import Backend
from distributed.launch import World
from scripts.startup import UsageError

log = logging.getLogger(__name__)

REFUSALS_SHOWN = 5


@contextmanager
def readable() -> Iterator[None]:
    """Turn the errors of constructors, which are written for people, into one line; Hydra wraps them in its own."""
    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__ if isinstance(error.__cause__, ValueError) else error
        raise UsageError(str(cause).splitlines()[0]) from error
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def build(node: DictConfig, **runtime: Any) -> Any:
    """What a node describes, completed with objects known only at run time.

    Not handed to ``instantiate`` itself: it would copy them into a configuration, element by element.
    """
    return instantiate(node, _partial_=True, _convert_="all")(**runtime)


@dataclass(frozen=True, slots=True)
class Split:
    """The usable utterances of one split, with what the batch plan needs to know of them."""

    name: str
    screened: Screened

    @property
    def utterances(self) -> Sequence[Utterance]:
        """Usable utterances, in the manifest's order."""
        return self.screened.usable


@dataclass(frozen=True, slots=True)
class Speech:
    """What a model reads and writes."""

    corpus: Corpus
    manifests: Mapping[str, Path]
    features: LogMel
    tokenizer: Tokenizer

    def with_manifest(self, name: str, path: Path) -> "Speech":
        """The same, with one more split."""
        return replace(self, manifests={**self.manifests, name: path})

    def split(self, name: str) -> Split:
        """Screen one split; what is left out is counted and listed in the log."""
        if name not in self.manifests:
            raise UsageError(f"the corpus has no split {name!r}; it has {', '.join(self.manifests)}")
        screened = screen(
            read_manifest(self.manifests[name]),
            tokenizer=self.tokenizer,
            features=self.features,
            on_bad=self.corpus.on_bad,
        )
        for line in refusal_summary(screened.refused, REFUSALS_SHOWN):
            log.warning("%s: %s", name, line)
        return Split(name, screened)

    def dataset(self, split: Split, hooks: Sequence[tuple[str, BatchHook]], seed: int, cache: bool) -> UnitDataset:
        """Batches of a split, through the batch hooks."""
        return UnitDataset(
            utterances=split.utterances,
            tokenizer=self.tokenizer,
            features=self.features,
            hooks=hooks,
            seed=seed,
            on_bad=self.corpus.on_bad,
            cache=cache,
        )


def build_speech(config: DictConfig, folder: Path, world: World) -> Speech:
    """The corpus, made by one process if it is missing, features, and the tokenizer, kept in the run's folder."""
    corpus: Corpus = build(config.data)
    manifests = corpus.prepare()
    tokens = folder / "tokenizer"
    if world.rank == 0 and not tokens.is_dir():
        texts = [utterance.text for utterance in read_manifest(manifests["train"])]
        build(config.tokenizer).fit(texts).save(tokens)
    world.barrier()
    return Speech(corpus, manifests, build(config.features), load_tokenizer(tokens))


def build_plan(config: DictConfig, split: Split, subsampling: int) -> BatchPlan:
    """The batch plan of the training split."""
    plan: BatchPlan = build(
        config.batch,
        frames=split.screened.frames,
        target_lengths=split.screened.target_lengths,
        utterance_ids=[utterance.id for utterance in split.utterances],
        subsampling=subsampling,
        seed=config.seed,
    )
    return plan


def build_model(config: DictConfig, speech: Speech) -> Transducer:
    """The model with its initial weights, which depend on the seed alone."""
    torch.manual_seed(config.seed)
    model: Transducer = build(
        config.model,
        vocabulary_size=speech.tokenizer.vocabulary_size,
        feature_dimension=speech.features.dimension,
    )
    return model.double() if config.trainer.precision == "fp64" else model


def build_hooks(config: DictConfig) -> dict[str, Hook]:
    """The hooks in the order of the configuration."""
    return {str(name): build(node) for name, node in (config.get("hooks") or {}).items()}


def build_backend(config: DictConfig, world: World) -> Backend:
    """How the learners agree."""
    backend: Backend = build(config.backend, world=world)
    return backend


def evaluation_set(config: DictConfig, speech: Speech, name: str, cache: bool) -> EvaluationSet:
    """A split as units of similar length for decoding; no hook touches it."""
    split = speech.split(name)
    frames = split.screened.frames
    order = sorted(range(len(frames)), key=frames.__getitem__)
    budgets = Budgets(config.evaluation.unit_utterances, config.batch.max_frames, config.batch.max_cells)
    # Without targets: decoding has no lattice, and the loss of a long transcript is computed in tiles.
    units = chunk(order, frames, frames, [0] * len(frames), budgets)
    return EvaluationSet(
        name=name,
        dataset=speech.dataset(split, [], config.seed, cache),
        units=[Unit(0, index, 0, tuple(members)) for index, members in enumerate(units)],
        utterances=split.utterances,
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain values, for loggers."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
