"""Frame targets, which an acoustic model is trained on: a class for every frame, kept in one file per split.

    alignment/<split>.safetensors     classes of all utterances one after the other, where each begins, and as metadata
                                      their ids, the seconds per class, and the fingerprint of the tokens they stand for

The classes come from an aligned model's states, say of 40 ms; each is repeated for the model's own frames, say of
10 ms. Whatever does not fit (other tokens, another frame rate, another length) is refused, never stretched.

T frames   N classes of all utterances
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from asr.data.tokenizer import Tokenizer
from asr.foreign.files import ForeignError
from asr.foreign.json_text import parse_json
from asr.foreign.tensors import read_tensors
from distributed.errors import UsageError

FORMAT = "1"
SUFFIX = ".safetensors"
RATE_TOLERANCE = 1e-6  # tolerance of the ratio of two frame lengths, which are sums of rounded numbers


def write_alignment(path: Path, classes: Mapping[str, Tensor], *, frame_seconds: float, tokenizer: Tokenizer) -> None:
    """Write the classes (S,) of each utterance, by id; ``frame_seconds`` is the time from one class to the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ends = torch.tensor([0, *map(len, classes.values())]).cumsum(0)
    metadata = {
        "format": FORMAT,
        "frame_seconds": repr(frame_seconds),
        "tokenizer": tokenizer.fingerprint,
        "utterance_ids": json.dumps(list(classes)),
    }
    partial = path.with_name(f".{path.name}.partial")
    save_file({"classes": torch.cat(list(classes.values())).to(torch.int32), "offsets": ends}, partial, metadata)
    partial.replace(path)


@dataclass(frozen=True, slots=True)
class FrameClasses:
    """The classes of a split's utterances, at the frame rate of the model that reads them."""

    path: Path
    classes_N: Tensor
    spans: Mapping[str, tuple[int, int]]  # utterance id -> where its classes begin and end
    repeat: int  # frames of the model for each class

    def of(self, utterance_id: str, frames: int) -> Tensor:
        """The class of each frame, (T,) int64.

        Raises:
            ValueError: the utterance is not in the file, or has another length there.
        """
        if utterance_id not in self.spans:
            raise UsageError(f"has no targets in {self.path}; align the corpus anew, or leave it out: data.on_bad=skip")
        begin, end = self.spans[utterance_id]
        if -(-frames // self.repeat) != end - begin:
            raise UsageError(
                f"has {frames} frames, and {end - begin} targets for {self.repeat} frames each in {self.path}; "
                "align the corpus as it is now"
            )
        return self.classes_N[begin:end].long().repeat_interleave(self.repeat)[:frames]


def read_alignment(path: Path, *, frame_seconds: float, tokenizer: Tokenizer) -> FrameClasses:
    """The classes in a file, for a model whose frames are ``frame_seconds`` apart and whose classes are the tokens.

    Raises:
        ValueError: there is no such file, or it was written for other tokens or for frames that do not fit.
    """
    metadata, tensors = _read(path)
    if metadata["tokenizer"] != tokenizer.fingerprint:
        raise UsageError(
            f"{path}: its targets are tokens of another tokenizer; use the tokenizer of the run that was aligned"
        )
    try:
        ratio = float(metadata["frame_seconds"]) / frame_seconds
    except ValueError:
        ratio = math.nan
    if not math.isfinite(ratio):
        raise UsageError(
            f"{path}: frame_seconds is {metadata['frame_seconds'][:80]!r}; write it anew with scripts/align.py"
        )
    repeat = round(ratio)
    if repeat < 1 or abs(ratio - repeat) > RATE_TOLERANCE * repeat:
        raise UsageError(
            f"{path}: one target for {1000 * float(metadata['frame_seconds']):g} ms cannot be divided among frames of "
            f"{1000 * frame_seconds:g} ms; set features.frame_shift_ms and features.stack so that it can"
        )
    return FrameClasses(path, tensors["classes"], _spans(path, metadata["utterance_ids"], tensors), repeat)


def _spans(path: Path, written_ids: str, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Begin and end of each utterance's classes; raises UsageError where the parts of a file do not fit each other."""
    classes, offsets = tensors["classes"], tensors["offsets"]
    try:
        ids = parse_json(written_ids)
    except ValueError:
        ids = None
    fits = (
        isinstance(ids, list)
        and all(isinstance(each, str) for each in ids)
        and (classes.dtype, classes.dim(), offsets.dtype) == (torch.int32, 1, torch.int64)
        and offsets.shape == (len(ids) + 1,)
        and bool((offsets.diff() >= 0).all())
        and (int(offsets[0]), int(offsets[-1])) == (0, len(classes))
    )
    if not fits:
        raise UsageError(
            f"{path}: its ids, offsets and classes do not fit each other; write it anew with scripts/align.py"
        )
    return dict(zip(ids, itertools.pairwise(offsets.tolist()), strict=True))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.exists():
        raise UsageError(f"{path}: there is no such file; write it: python scripts/align.py run=exp/... {path.stem}")
    try:
        tensors = read_tensors(path)
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (ForeignError, SafetensorError, OSError) as error:
        raise UsageError(f"{error}; write it anew with scripts/align.py") from None
    needed = {"tokenizer", "frame_seconds", "utterance_ids"}
    if (
        metadata.get("format") != FORMAT
        or not needed <= metadata.keys()
        or not {"classes", "offsets"} <= tensors.keys()
    ):
        raise UsageError(f"{path}: not an alignment of format {FORMAT}; write it anew with scripts/align.py")
    return metadata, tensors
