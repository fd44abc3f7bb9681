"""The composition root: from a checked configuration to the parts of a run, each built exactly once.

Parts are handed over ready-made; no class of the project builds another one from a configuration.
"""

import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from asr.data.batch import Batch, Unit
from asr.data.cache import SignalCache
from asr.data.corpus import Corpus
from asr.data.manifest import read_manifest
from asr.data.material import Material, Speech, Split, Text, TextSources
from asr.data.plan import BatchPlan, Budgets, chunk
from asr.data.tokenizer import Tokenizer, load_tokenizer
from asr.models.auxiliary import without_auxiliaries
from asr.models.speech_model import SpeechModel
from asr.parts import build, plain
from asr.runs.model_folder import Description
from asr.runs.run_folder import RunFolder
from asr.training.evaluation import EvaluationSet
from asr.training.hook import Hook
from distributed.backend import Backend
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.initial_weights import find_initial_weights, made_of
from scripts.composition.settings import trains_on_text


def training_texts(corpus: Corpus) -> list[str]:
    """The texts of the split train, from which tokenizers learn.

    Of all its folds, whichever a run leaves out: hypotheses of one model are labels of another only in the same tokens.
    """
    manifests = corpus.prepare()
    if "train" not in manifests:
        raise UsageError(f"the corpus has no split train; it has {', '.join(manifests)}: set data.train")
    return [utterance.text for utterance in read_manifest(manifests["train"])]


def _texts_to_learn(config: DictConfig) -> list[str]:
    if trains_on_text(config):
        return [utterance.text for utterance in build_text_sources(config).training()]
    return training_texts(build(config.data))


def fit_tokenizer(config: DictConfig, folder: Path, world: World) -> None:
    """Write the tokenizer into a run's folder; it is made again until config.yaml establishes the run."""
    run = RunFolder(folder)
    if world.rank == 0 and not run.config.is_file():
        unfinished = run.tokenizer.with_name(f".{run.tokenizer.name}")
        tokenizer: Tokenizer = build(config.tokenizer).fit(_texts_to_learn(config))
        for leftover in (run.tokenizer, unfinished):
            if leftover.is_dir():
                shutil.rmtree(leftover)
        tokenizer.save(unfinished)
        unfinished.rename(run.tokenizer)
    world.barrier()


def build_speech(config: DictConfig, folder: Path) -> Speech:
    """Corpus, features and the tokenizer that lies in the run's folder."""
    alignments = None if config.frame_targets is None else Path(config.frame_targets)
    tokenizer = load_tokenizer(RunFolder(folder).tokenizer)
    return Speech(build(config.data), build(config.features), tokenizer, alignments, build(config.fold))


def build_text_sources(config: DictConfig) -> TextSources:
    """The sources of a language model's texts."""
    return TextSources(build(config.data), config.transcripts, [Path(each) for each in config.texts])


def build_material(config: DictConfig, folder: Path) -> Speech | Text:
    """The training material of the run's model, with the tokenizer in the run's folder."""
    if trains_on_text(config):
        return Text(build_text_sources(config), load_tokenizer(RunFolder(folder).tokenizer))
    return build_speech(config, folder)


def build_plan(config: DictConfig, split: Split, model: SpeechModel, hooks: Collection[Hook]) -> BatchPlan:
    """The batch plan of the training split, with margins for the frames and tokens that hooks add."""
    plan: BatchPlan = build(
        config.batch,
        frames=split.screened.frames,
        target_lengths=split.screened.target_lengths,
        utterance_ids=[utterance.id for utterance in split.utterances],
        subsampling=model.subsampling,
        lengthening=math.prod(1.0 + hook.lengthens for hook in hooks) - 1.0,
        target_lengthening=math.prod(1.0 + hook.lengthens_targets for hook in hooks) - 1.0,
        has_lattice=model.has_lattice,
        seed=config.seed,
    )
    return plan


def build_model(config: DictConfig, material: Material) -> SpeechModel:
    """The model with its initial weights, which depend only on the seed."""
    torch.manual_seed(config.seed)
    model: SpeechModel = build(config.model, **material.sizes)
    if model.reads_frame_targets and config.frame_targets is None:
        raise UsageError(
            "this model needs a target for every frame: write them with python scripts/align.py run=exp/... train dev, "
            "then set frame_targets=exp/.../alignment"
        )
    return model.double() if config.trainer.precision == "fp64" else model


def describe(
    config: DictConfig, material: Material, hooks: Mapping[str, Hook], earlier: Description | None
) -> Description:
    """The description of the run's model, for the model folder of every checkpoint.

    Args:
        earlier: the description in a resumed run's checkpoint: it names the weights that the run really started from.
    """
    settled = plain(config)["transforms"]
    return Description(
        model=plain(config.model) | material.sizes,
        features=None if trains_on_text(config) else plain(config.features),
        tokenizer=material.tokenizer.fingerprint,
        dtype="float64" if config.trainer.precision == "fp64" else "float32",
        transforms=[*settled, *(node for hook in hooks.values() for node in hook.transforms() if node not in settled)],
        made_of=made_of(config) if earlier is None else earlier.made_of,
    )


def hooked_model(
    config: DictConfig, material: Material, hooks: Mapping[str, Hook], description: Description, resumed: bool
) -> SpeechModel:
    """The model to train, with the weights of ``init_from`` where it is set and no checkpoint brings others.

    The weights are loaded when this model has gone through the same transforms as their source: those of an unchanged
    model before the hooks' transforms, those of a model that was changed in the same way after them.
    """
    model = build_model(config, material)
    initial = None if resumed else find_initial_weights(config, material.tokenizer, description.transforms)
    for applied in range(len(description.transforms) + 1):
        if initial is not None and initial.transforms == applied:
            initial.load_into(model)
        if applied < len(description.transforms):
            model = build(description.transforms[applied])(model)
    for hook in hooks.values():
        model = hook.on_model(model)
    return model


def build_hooks(config: DictConfig) -> dict[str, Hook]:
    """The hooks in the order of the configuration."""
    return {str(name): build(node) for name, node in (config.get("hooks") or {}).items()}


def build_backend(config: DictConfig, world: World) -> Backend:
    """The backend of the configuration."""
    backend: Backend = build(config.backend, world=world)
    return backend


def evaluation_set(config: DictConfig, material: Material, name: str, cache: SignalCache) -> EvaluationSet:
    """A split as units of similar length for decoding; no hook touches it."""
    split = material.split(name)
    frames = split.screened.frames
    order = sorted(range(len(frames)), key=frames.__getitem__)
    budgets = Budgets(config.evaluation.unit_utterances, config.batch.max_frames, config.batch.max_cells)
    # Without targets: decoding has no lattice, and the loss of a long transcript is computed in tiles.
    units = chunk(order, frames, frames, [0] * len(frames), budgets)
    return EvaluationSet(
        name=split.name,
        dataset=material.dataset(split, [], config.seed, cache),
        units=[Unit(0, index, 0, tuple(members)) for index, members in enumerate(units)],
        screened=split.screened,
    )


def shuffled_batches(evaluated: EvaluationSet, seed: int) -> Iterator[Batch]:
    """The units of a set, each once, in an order drawn from ``seed``."""
    order = torch.randperm(len(evaluated.units), generator=torch.Generator().manual_seed(seed))
    return (evaluated.dataset[evaluated.units[place]] for place in order.tolist())


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters of the model itself."""
    own = without_auxiliaries(dict(model.named_parameters()))
    return sum(parameter.numel() for parameter in own.values() if parameter.requires_grad)
