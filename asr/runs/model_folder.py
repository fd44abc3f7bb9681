"""A model as a folder: everything that uses a trained model reads one, and every checkpoint and every export is one.

    model.yaml          description: the node it is built from, transforms, features, the SHA-256 of its weights
    model.safetensors   its weights
    tokenizer/          between texts and its tokens

``transforms`` are persistent changes of the module tree, applied in order after the model is built. Changes of size need
none: they are in the sizes of ``model``. What belongs to training alone is in no model folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from asr.data.features import LogMel
from asr.data.tokenizer import Tokenizer, load_tokenizer
from asr.foreign.tensors import read_tensors
from asr.foreign.yaml_text import read_yaml
from asr.models.speech_model import SpeechModel
from asr.parts import build, check_part
from asr.runs.files import begun_folder, fsync, put_in_place, sha256, write_atomically
from asr.runs.misfit import built_on_meta, refuse_misfit, shapes_in
from distributed.errors import UsageError

FORMAT = 1
DESCRIPTION = "model.yaml"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer"

Transform = Callable[[SpeechModel], SpeechModel]
"""A persistent change of a model's module tree, built from a node of ``transforms``; returns the changed model.

It also changes a model on the device meta, whose weights have shapes alone: folders are checked so before they are loaded.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """How a model is built, apart from the values of its weights. Plain values only."""

    model: dict[str, Any]  # node of the model, sizes included
    features: dict[str, Any] | None  # node of the acoustic features; None for a model of texts
    tokenizer: str  # fingerprint of the tokenizer
    dtype: Literal["float32", "float64"] = "float32"  # dtype of the weights
    transforms: list[dict[str, Any]] = field(default_factory=list)  # nodes, in the order in which they are applied
    made_of: list[dict[str, Any]] = field(default_factory=list)  # the models it was made from: names and SHA-256

    def build(self) -> SpeechModel:
        """The model with weights drawn anew, in evaluation mode; torch's generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return self._built(self.transforms).eval()

    def with_weights(self, weights: Mapping[str, Tensor]) -> SpeechModel:
        """The model of these weights, of the names and shapes of its own, in evaluation mode.

        One that holds codes is never there in full precision: it takes the tensors over in place of its own.
        """
        empty = built_on_meta(self.build)
        state = empty.state_dict()
        if all(each.is_floating_point() for each in state.values()):
            model = self.build()
            model.load_state_dict(weights)
            return model
        floating = {name: each.dtype for name, each in state.items() if each.is_floating_point()}
        empty.load_state_dict(
            {name: each.to(floating.get(name, each.dtype)) for name, each in weights.items()}, assign=True
        )
        return empty

    def _built(self, transforms: Sequence[Mapping[str, Any]]) -> SpeechModel:
        model: SpeechModel = build(self.model)
        model = model.to(getattr(torch, self.dtype))
        for node in transforms:
            model = build(node)(model)
        return model

    def is_changed(self, module: str) -> bool:
        """Whether the transforms change ``module`` (``encoder.subsample``), or what lies inside it.

        Raises:
            UsageError: the model cannot be built.
        """
        before, after = (
            {
                name: (type(each), each.extra_repr(), _shapes(each.state_dict()))
                for name, each in built_on_meta(partial(self._built, nodes)).named_modules()
                if f"{name}.".startswith(f"{module}.")
            }
            for nodes in ((), self.transforms)
        )
        return before != after

    def refuse_misfit(self, weights: Mapping[str, tuple[int, ...]], folder: Path) -> None:
        """Raise UsageError unless ``weights`` are the names and shapes of the model's; the model is not allocated."""
        refuse_misfit(self.build, weights, f"{folder}: its weights do not fit {DESCRIPTION}")


@dataclass(frozen=True, slots=True)
class ModelParts:
    """The parts of a model folder beside the weights."""

    description: Description
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained model, ready to be used, on the CPU and in evaluation mode."""

    model: SpeechModel
    features: LogMel | None
    tokenizer: Tokenizer
    description: Description
    origin: dict[str, Any]  # identifies the model in results: a name, and SHA-256 digests of weights
    auxiliaries: Callable[[], Mapping[str, Tensor]] = dict
    """Reads what trained with the model, {} of none: passes may, nothing else needs it, model folders never hold it."""


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a model, as checkpoints and exports do."""
    return (folder / DESCRIPTION).is_file()


def write_description(folder: Path, description: Description, tokenizer: Tokenizer) -> list[str]:
    """Write description and tokenizer beside the weights that are in ``folder``; return the names of these files."""
    record = {"format": FORMAT, **asdict(description), "weights_sha256": sha256(folder / WEIGHTS)}
    write_atomically(folder / DESCRIPTION, yaml.dump(record, Dumper=_WithoutAliases, sort_keys=False))
    tokenizer.save(folder / TOKENIZER)
    written = [folder / DESCRIPTION, *sorted((folder / TOKENIZER).iterdir())]
    for path in (*written, folder / TOKENIZER):
        fsync(path)
    return [path.relative_to(folder).as_posix() for path in written]


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a file of weights and force it to disk."""
    # Copies: weights may be views of one flat buffer, which safetensors refuses to store several times.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
    }
    save_file(copies, path)
    fsync(path)


def save_model(loaded: LoadedModel, final: Path) -> None:
    """Write a model as the folder ``final`` atomically; a folder of this name is replaced.

    Raises:
        UsageError: the folder could not be read back: its description does not build this model. Nothing is replaced.
    """
    temporary = begun_folder(final)
    write_weights(temporary / WEIGHTS, loaded.model.state_dict())
    write_description(temporary, loaded.description, loaded.tokenizer)
    load_model(temporary)
    put_in_place(temporary, final)


class _WithoutAliases(yaml.SafeDumper):
    """Writes an object that occurs twice in full each time, instead of as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_description(folder: Path, key: str = "model") -> tuple[Description, str]:
    """Read and check the description in a model folder; return it and the SHA-256 that the weights must have.

    Raises:
        UsageError: there is none, or it is damaged, of another version, or names code that is none of our parts.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        raise UsageError(f"{key}={folder}: no {DESCRIPTION} there; give a model folder, or a run of this version")
    try:
        record = read_yaml(path)
        if not isinstance(record, dict):
            raise UsageError(f"{path}: cannot be read: it is not a mapping")
        version, digest = record.pop("format"), str(record.pop("weights_sha256"))
        if version != FORMAT:
            raise UsageError(f"{path}: format {version}, this version reads {FORMAT}: use the version that wrote it")
        description = Description(**record)
        _check(description, path)
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    return description, digest


def _check(description: Description, path: Path) -> None:
    """Raise UsageError unless every field has its type and names parts of this project only."""
    fits = (
        isinstance(description.tokenizer, str)
        and description.dtype in ("float32", "float64")
        and isinstance(description.transforms, list)
        and isinstance(description.made_of, list)
    )
    if not fits:
        raise UsageError(f"{path}: cannot be read: tokenizer, dtype, transforms or made_of is not of its kind")
    check_part(description.model, f"{path}: model", SpeechModel)
    if description.features is not None:
        check_part(description.features, f"{path}: features", LogMel)
    for node in description.transforms:
        check_part(node, f"{path}: transforms", None)


def load_model(folder: Path, key: str = "model", weights: Mapping[str, Tensor] | None = None) -> LoadedModel:
    """The model of a folder; errors call the folder ``key``.

    Args:
        weights: used instead of the folder's own, for example the mean of several checkpoints.

    Raises:
        UsageError: the folder holds no model, or it is damaged, or of another version.
    """
    description, digest = read_description(folder, key)
    if weights is None:
        weights = read_weights(folder, digest)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    if tokenizer.fingerprint != description.tokenizer:
        raise UsageError(f"{folder / TOKENIZER}: not the tokenizer that {DESCRIPTION} names; restore the folder")
    description.refuse_misfit(_shapes(weights), folder)
    try:
        model = description.with_weights(weights)
    except UsageError as error:
        raise UsageError(f"{folder}: {error}") from None
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # a foreign folder may have any defect
        raise UsageError(f"{folder / DESCRIPTION}: builds no model: {' '.join(str(error).split())}") from error
    features: LogMel | None = None if description.features is None else build(description.features)
    return LoadedModel(model, features, tokenizer, description, {"model": str(folder), "weights_sha256": [digest]})


def check_sizes(folder: Path, description: Description) -> None:
    """Raise UsageError unless the weights of a model folder fit its description; only their header is read."""
    description.refuse_misfit(shapes_in(folder / WEIGHTS), folder)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def read_weights(folder: Path, digest: str) -> dict[str, Tensor]:
    """The weights of a model folder; UsageError if they are missing or not those that its description was written for."""
    path = folder / WEIGHTS
    if not path.is_file() or sha256(path) != digest:
        raise UsageError(f"{path}: missing, truncated or altered (SHA-256 differs); restore the folder")
    return read_tensors(path)
