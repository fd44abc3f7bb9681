"""Features of a recording while it is heard: the model's input block by block, the same as of the whole.

A block is computed as soon as its last frame, and with deltas those that they look ahead at, have been heard. Frames are
always computed in the same groups, so that no value depends on the sizes of the pieces in which the samples came.

T frames   F mel bins   D model's input   R frames that deltas see on either side
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.data.context import WINDOW, deltas_within, stack_frames
from asr.data.features import LogMel
from distributed.errors import UsageError


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the model's input."""

    features_TD: Tensor
    seconds: float  # of the recording that had to be heard for it


def refuse_whole_only(features: LogMel) -> None:
    """Raise UsageError for features that need the whole recording."""
    if features.normalisation != "none":
        raise UsageError(
            f"features.normalise={features.normalisation}: such features are known when the recording has ended, and a stream "
            "has no use for them; train with features.normalise=none"
        )
    if features.dither:
        raise UsageError(
            f"features.dither={features.dither:g}: the noise is drawn for a whole recording; train with features.dither=0"
        )


class FeatureStream:
    """One recording, from its start to its end; blocks have ``frames`` frames of the model's input, the last may have fewer.

    Raises:
        UsageError: the features need the whole recording.
    """

    def __init__(self, features: LogMel, frames: int) -> None:
        refuse_whole_only(features)
        self.features = features
        self.block = frames * features.stack  # mel frames
        self.reach = WINDOW * features.deltas
        early = 0 if features.whole_frames_only else features.window_samples // 2 - features.shift_samples // 2
        self._early = early  # samples that a frame begins before its shift
        self._samples = torch.zeros(0)  # those held, from number ``_first`` on
        self._first = 0
        self.heard = 0  # samples
        self._mel = 0  # frames computed
        self._mel_TF = torch.zeros(0, features.num_mels)  # of which these are held: R before the next block, and on

    def push(self, samples: Tensor) -> Iterator[Block]:
        """The blocks that (samples,) float32 complete; take them all before the next samples are given."""
        self._samples = torch.cat([self._samples, samples])
        self.heard += len(samples)
        while self.heard >= (needed := self._start_of(self._next_group - 1) + self.features.window_samples):
            self._compute(self._next_group)
            yield Block(self._take(self.block), needed / self.features.sample_rate)
        first = min(max(self._start_of(self._mel), 0), self.heard)
        self._samples, self._first = self._samples[first - self._first :].clone(), first

    def end(self) -> Iterator[Block]:
        """The remaining blocks."""
        self._compute(self.features.mel_frames_of(self.heard))
        if len(self._mel_TF):
            self._mel_TF = torch.cat([self._mel_TF, self._mel_TF[-1:].expand(self.reach, -1)])
        while (left := len(self._mel_TF) - 2 * self.reach) > 0:
            yield Block(self._take(min(left, self.block)), self.heard / self.features.sample_rate)

    @property
    def seconds(self) -> float:
        """Duration of what has been heard."""
        return self.heard / self.features.sample_rate

    @property
    def _next_group(self) -> int:
        """The number of frames up to the end of the group that completes the next block."""
        return self.block + (self._mel or self.reach)

    def _start_of(self, frame: int) -> int:
        """Number of the sample that a frame begins with; negative before the recording."""
        return frame * self.features.shift_samples - self._early

    def _compute(self, end: int) -> None:
        """Compute the frames up to number ``end``; samples beyond either end of the recording are mirrored."""
        if end <= self._mel:
            return
        start, stop = self._start_of(self._mel), self._start_of(end - 1) + self.features.window_samples
        place = torch.arange(start, stop)
        place = torch.where(place < 0, -1 - place, place)
        place = torch.where(place >= self.heard, 2 * self.heard - 1 - place, place)
        mel_TF = self.features.mel_of_stretch(self._samples[place - self._first])
        before = [] if self._mel else [mel_TF[:1].expand(self.reach, -1)]
        self._mel_TF = torch.cat([*before, self._mel_TF, mel_TF])
        self._mel = end

    def _take(self, frames: int) -> Tensor:
        """The model's input of the next mel frames, which are let go."""
        wide_TF = self._mel_TF[: frames + 2 * self.reach]
        self._mel_TF = self._mel_TF[frames:].clone()
        return stack_frames(deltas_within(wide_TF, self.features.deltas), self.features.stack)
