"""A trained run, ready to be used: its configuration, features, tokenizer and the weights of a checkpoint."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf

from asr.data.material import Speech, Text
from asr.foreign.tensors import refuse_non_finite
from asr.models.speech_model import Recogniser, SpeechModel
from asr.runs.checkpoint import mean_of_auxiliaries
from asr.runs.choice import choose_checkpoints, mean_model, warn_of_best_lost, warn_of_gaps
from asr.runs.model_folder import LoadedModel, load_model
from asr.runs.run_folder import RunFolder
from asr.training.allocator import keep_freed_memory
from asr.training.arithmetic import precision_for_decoding
from asr.training.inference import Inference, chosen_device
from asr.training.precision import Precision, choose_matmul, flush_denormals
from compression.pruning.masks import names_of_masks
from distributed.errors import UsageError
from scripts.composition.build import build_material
from scripts.composition.compose import differing_keys
from scripts.composition.run_configuration import load_run_config
from scripts.composition.settings import RunSettings, TrainSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """A run and one of its models."""

    folder: Path
    config: DictConfig
    material: Speech | Text
    loaded: LoadedModel
    device: torch.device  # where the model lies
    precision: Precision  # to decode in

    @property
    def model(self) -> SpeechModel:
        """The model, in evaluation mode."""
        return self.loaded.model

    @property
    def speech(self) -> Speech:
        """What the model hears and writes; language models, which ``load_trained`` loads where asked to, have none."""
        assert isinstance(self.material, Speech)
        return self.material

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoints that the model is the mean of, or of its model folder."""
        return str(self.origin["checkpoint"])

    @property
    def origin(self) -> dict[str, Any]:
        """Identifies the model in results: a name, and SHA-256 digests, since a run trained anew has the same name."""
        return self.loaded.origin

    @property
    def recogniser(self) -> Recogniser:
        """The model, as a recogniser.

        Raises:
            UsageError: the model writes no text.
        """
        if not isinstance(self.model, Recogniser):
            raise UsageError(
                f"run={self.folder}: its model writes no text (model._target_={self.config.model._target_}); "
                "metrics.jsonl holds its figures, on the sets of evaluation.sets"
            )
        return self.model

    def inference(self) -> Inference[Recogniser]:
        """A loop over batches with statistics of its own; UsageError if the model writes no text."""
        return Inference(self.recogniser, self.device, self.precision)


def load_trained(
    folder: Path,
    checkpoint: str,
    threads: int,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    weights: Path | None = None,
    settings: type[RunSettings] | None = TrainSettings,
) -> Trained:
    """Load a run's model from ``checkpoint``: best, last, avg:N, best:N or emergency. The corpus is not read.

    The model lies on the ``device``. ``weights`` is a model folder that takes the place of the checkpoint, as what a pass
    has made of it. ``settings`` is the kind of run; None: any, language models too.

    Raises:
        UsageError: the folder holds no run, or not that checkpoint, or the model folder is not one for this run, or
            there is no such device.
    """
    place = chosen_device(device)
    flush_denormals()
    keep_freed_memory()
    torch.set_num_threads(threads)
    config = load_run_config(folder, settings)
    loaded = _of_checkpoints(folder, checkpoint, config) if weights is None else _of_folder(weights)
    where = f"{folder}: {loaded.origin['checkpoint']}" if weights is None else f"weights={weights}"
    refuse_non_finite(loaded.model.state_dict(), where)
    choose_matmul(config.launch.matmul)
    material = build_material(config, folder)
    material.corpus.writable = (Path(), Path("data"), folder)  # the run may come from anywhere; data is often a link
    if weights is not None:
        _check_suits(loaded, material, config, f"weights={weights}")
    precision = precision_for_decoding(config.trainer.precision, loaded.model, folder, place)
    loaded.model.to(place)
    return Trained(folder, config, material, loaded, place, precision)


def load_configured(config: DictConfig) -> Trained:
    """The model that an entry point's configuration names, by ``run``, ``checkpoint`` and, where it has that, ``weights``."""
    weights = config.get("weights")
    trained = load_trained(
        Path(config.run), config.checkpoint, config.threads, config.device, None if weights is None else Path(weights)
    )
    warn_if_masked(trained)
    return trained


def warn_if_masked(trained: Trained) -> None:
    """Warn if masks were trained beside the model, which is nevertheless the whole one."""
    if names_of_masks(trained.loaded.auxiliaries()):
        folder = RunFolder(trained.folder)
        log.warning(
            "%s: %s is the whole model, which its masks (hooks=[structured_pruning]) have not touched; for the pruned one: "
            "python scripts/compress.py run=%s pass=prune checkpoint=last, then weights=%s",
            trained.folder,
            trained.checkpoint,
            trained.folder,
            folder.export("prune"),
        )


def _of_checkpoints(folder: Path, checkpoint: str, config: DictConfig) -> LoadedModel:
    """The mean model of a run's checkpoints; values that cannot be averaged come from the newest."""
    chosen = choose_checkpoints(RunFolder(folder).checkpoints, checkpoint)
    warn_of_gaps(chosen, checkpoint, config.trainer.checkpoint_every)
    warn_of_best_lost(checkpoint, config.checkpoint.keep_best)
    return mean_model(chosen)


def _check_suits(loaded: LoadedModel, material: Speech | Text, config: DictConfig, where: str) -> None:
    """Raise UsageError unless a run's data, features and precision are what a model folder was made for."""
    remedy = f"give the run it was made of in place of run={config.get('name') or 'this one'}"
    if loaded.tokenizer.fingerprint != material.tokenizer.fingerprint:
        raise UsageError(f"{where}: that model writes other tokens than the run; {remedy}")
    heard = loaded.description.features
    if isinstance(material, Text) != (heard is None):
        differing = ["features"]
    else:
        differing = [] if heard is None else differing_keys(OmegaConf.create(heard), config.features)
    if differing:
        raise UsageError(
            f"{where}: that model hears other features than the run: {', '.join(differing)} differ; {remedy}"
        )
    if (loaded.description.dtype == "float64") != (config.trainer.precision == "fp64"):
        raise UsageError(
            f"{where}: its weights are {loaded.description.dtype}, the run's precision is {config.trainer.precision}; {remedy}"
        )


def _of_folder(folder: Path) -> LoadedModel:
    loaded = load_model(folder, "weights")
    origin = {"checkpoint": folder.name, "weights_sha256": loaded.origin["weights_sha256"]}
    return replace(loaded, origin=origin, auxiliaries=partial(mean_of_auxiliaries, [folder]))
