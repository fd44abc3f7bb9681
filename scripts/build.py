"""The composition root: from a checked configuration to the parts of a run, each built exactly once.

Parts are handed over ready-made; no class of the project builds another one from a configuration.
"""

import logging
import math
import shutil
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from asr.data.batch import Unit
from asr.data.cache import SignalCache
from asr.data.corpus import Corpus
from asr.data.features import LogMel
from asr.data.frame_targets import SUFFIX, read_alignment
from asr.data.manifest import Utterance, read_manifest
from asr.data.pipeline import BatchHook, FrameTargets, UnitDataset
from asr.data.plan import BatchPlan, Budgets, chunk
from asr.data.screening import Screened, refusal_summary, screen
from asr.data.tokenizer import Tokenizer, load_tokenizer
from asr.models.speech_model import SpeechModel
from asr.training.evaluation import EvaluationSet
from asr.training.hook import Hook
from distributed.backend import Backend
from distributed.launch import World
from scripts.startup import REPOSITORY, UsageError

log = logging.getLogger(__name__)

REFUSALS_SHOWN = 5  # in the log; all are listed in the run's folder
MANIFEST_SUFFIXES = (".jsonl", ".json")


@contextmanager
def readable() -> Iterator[None]:
    """Turn the errors of our own constructors, which are written for people, into UsageError; others are bugs."""
    try:
        yield
    except UsageError:
        raise
    except (ValueError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if not isinstance(cause, ValueError) or not _raised_by_us(cause):
            raise
        raise UsageError(str(cause)) from error


def _raised_by_us(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(REPOSITORY) and ".venv" not in frames[-1].filename


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
    """What a model reads and writes. The corpus is looked at only when a split is asked for."""

    corpus: Corpus
    features: LogMel
    tokenizer: Tokenizer
    alignments: Path | None  # folder with the frame targets of each split; None: the model needs none

    def split(self, name: str) -> Split:
        """A split of the corpus, or the manifest that ``name`` is the path of, screened."""
        path = Path(name)
        if path.suffix in MANIFEST_SUFFIXES:
            return self._screened(path.stem, path)
        manifests = self.corpus.prepare()
        if name not in manifests:
            raise UsageError(
                f"the corpus has no split {name!r}; it has {', '.join(manifests)} (evaluation.sets=[] trains without one)"
            )
        return self._screened(name, manifests[name])

    def _screened(self, name: str, manifest: Path) -> Split:
        utterances = read_manifest(manifest)
        screened = screen(
            utterances,
            tokenizer=self.tokenizer,
            features=self.features,
            on_bad=self.corpus.on_bad,
            resample=self.corpus.resample,
        )
        for line in refusal_summary(screened.refused, REFUSALS_SHOWN):
            log.warning("%s: %s", name, line)
        return Split(name, screened)

    def dataset(
        self, split: Split, hooks: Sequence[tuple[str, BatchHook]], seed: int, cache: SignalCache
    ) -> UnitDataset:
        """Batches of a split, through the batch hooks."""
        return UnitDataset(
            utterances=split.utterances,
            tokenizer=self.tokenizer,
            features=self.features,
            hooks=hooks,
            seed=seed,
            on_bad=self.corpus.on_bad,
            resample=self.corpus.resample,
            cache=cache,
            frame_targets=self._frame_targets(split.name),
        )

    def _frame_targets(self, split: str) -> FrameTargets | None:
        if self.alignments is None:
            return None
        file = self.alignments / f"{split}{SUFFIX}"
        return read_alignment(file, frame_seconds=self.features.frame_seconds, tokenizer=self.tokenizer)


def training_texts(corpus: Corpus) -> list[str]:
    """The texts of the split train, from which tokenizers learn."""
    manifests = corpus.prepare()
    if "train" not in manifests:
        raise UsageError(f"the corpus has no split train; it has {', '.join(manifests)}: set data.train")
    return [utterance.text for utterance in read_manifest(manifests["train"])]


def fit_tokenizer(config: DictConfig, folder: Path, world: World) -> None:
    """Put the tokenizer into a run's folder: made anew until the run is established by its config.yaml."""
    if world.rank == 0 and not (folder / "config.yaml").is_file():
        tokenizer: Tokenizer = build(config.tokenizer).fit(training_texts(build(config.data)))
        for leftover in (folder / "tokenizer", folder / ".tokenizer"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
        tokenizer.save(folder / ".tokenizer")
        (folder / ".tokenizer").rename(folder / "tokenizer")
    world.barrier()


def build_speech(config: DictConfig, folder: Path) -> Speech:
    """Corpus, features and the tokenizer that lies in the run's folder."""
    alignments = None if config.frame_targets is None else Path(config.frame_targets)
    return Speech(build(config.data), build(config.features), load_tokenizer(folder / "tokenizer"), alignments)


def build_plan(config: DictConfig, split: Split, model: SpeechModel, hooks: Collection[Hook]) -> BatchPlan:
    """The batch plan of the training split, with room for what the hooks make of it.

    Tokens take no room where the loss has no lattice.
    """
    target_lengths = split.screened.target_lengths
    plan: BatchPlan = build(
        config.batch,
        frames=split.screened.frames,
        target_lengths=target_lengths if model.has_lattice else [0] * len(target_lengths),
        utterance_ids=[utterance.id for utterance in split.utterances],
        subsampling=model.subsampling,
        lengthening=math.prod(1.0 + hook.lengthens for hook in hooks) - 1.0,
        target_lengthening=math.prod(1.0 + hook.lengthens_targets for hook in hooks) - 1.0,
        seed=config.seed,
    )
    return plan


def build_model(config: DictConfig, speech: Speech) -> SpeechModel:
    """The model with its initial weights, which depend on the seed alone."""
    torch.manual_seed(config.seed)
    model: SpeechModel = build(
        config.model,
        vocabulary_size=speech.tokenizer.vocabulary_size,
        feature_dimension=speech.features.dimension,
    )
    if model.reads_frame_targets and config.frame_targets is None:
        raise UsageError(
            "this model needs a target for every frame: write them with python scripts/align.py run=exp/... train dev, "
            "then set frame_targets=exp/.../alignment"
        )
    return model.double() if config.trainer.precision == "fp64" else model


def build_hooks(config: DictConfig) -> dict[str, Hook]:
    """The hooks in the order of the configuration."""
    return {str(name): build(node) for name, node in (config.get("hooks") or {}).items()}


def build_backend(config: DictConfig, world: World) -> Backend:
    """How the learners agree."""
    backend: Backend = build(config.backend, world=world)
    return backend


def evaluation_set(config: DictConfig, speech: Speech, name: str, cache: SignalCache) -> EvaluationSet:
    """A split as units of similar length for decoding; no hook touches it."""
    split = speech.split(name)
    frames = split.screened.frames
    order = sorted(range(len(frames)), key=frames.__getitem__)
    budgets = Budgets(config.evaluation.unit_utterances, config.batch.max_frames, config.batch.max_cells)
    # Without targets: decoding has no lattice, and the loss of a long transcript is computed in tiles.
    units = chunk(order, frames, frames, [0] * len(frames), budgets)
    return EvaluationSet(
        name=split.name,
        dataset=speech.dataset(split, [], config.seed, cache),
        units=[Unit(0, index, 0, tuple(members)) for index, members in enumerate(units)],
        screened=split.screened,
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain values, for loggers."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
