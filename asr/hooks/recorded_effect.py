"""Base of hooks that add recordings to speech: it reads the recordings and draws the utterances that get one."""

import logging
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from asr.data.batch import RawBatch, Stage
from asr.data.recordings import Recordings, read_recordings
from asr.training.hook import Hook, Run
from distributed.ranges import Count, Fraction, NonNegative

log = logging.getLogger(__name__)


def mean_power(waveform: Tensor) -> float:
    """Mean square of (samples,), in double precision; 0 without samples."""
    return float(waveform.double().square().sum()) / max(1, len(waveform))


class RecordedEffect(Hook):
    """Applies an effect to utterances with a probability; each choice is keyed by the utterance."""

    stage: ClassVar[Stage | None] = "waveform"
    key: ClassVar[str]  # the hook's key in the configuration, which errors name

    def __init__(self, *, manifest: Path, sample_rate: Count, probability: Fraction, cache_gb: NonNegative) -> None:
        self.manifest = Path(manifest)
        self.sample_rate = sample_rate
        self.probability = probability
        self.cache_gb = cache_gb

    @cached_property
    def recordings(self) -> Recordings:
        """The recordings to draw from; read only when training starts, since a trained model is used without them.

        Raises:
            RecordingsError: the manifest or a recording cannot be used.
        """
        return read_recordings(
            self.manifest, key=f"{self.key}.manifest", sample_rate=self.sample_rate, cache_gb=self.cache_gb
        )

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Refuses bad recordings before training begins; loading processes get copies of the recordings read here."""
        log.info("%s: %d recordings", self.key, len(self.recordings))

    def on_batch(self, raw: RawBatch) -> None:
        for position, signal in enumerate(raw.signals):
            generator = raw.generator(position)
            if float(torch.rand((), generator=generator, dtype=torch.float64)) < self.probability:
                raw.signals[position] = self.effect(signal, generator)

    @abstractmethod
    def effect(self, signal: Tensor, generator: torch.Generator) -> Tensor:
        """(samples,) to (samples,), with recordings and numbers drawn by ``generator``; the input is not changed."""
