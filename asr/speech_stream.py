"""Speech that is recognised while somebody speaks: text so far, and at the end the text of the whole recording.

    stream = model.stream()
    for samples in microphone:           # pieces of any size
        stream.accept(samples)
        show(stream.partial.text)
    show(stream.final().text)

Features, encoder and search go on from where they were, chunk by chunk of the encoder, and compute what they would of the
whole recording. What is kept of the past does not grow, but for the text.

S encoder states   D model's input
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.data.audio import BadUtterance, sample_defect
from asr.data.audio_inputs import mono_samples
from asr.data.feature_stream import Block, FeatureStream
from asr.data.features import LogMel
from asr.data.resampling import StreamResampler
from asr.data.tokenizer import Tokenizer
from asr.decoding.online_words import OnlineWords
from asr.decoding.search import DecodesOnline, SearchError
from asr.decoding.transcript import Transcript
from asr.models.speech_model import Recogniser
from asr.models.streaming import ConformerStream, chunked
from asr.training.inference import Inference, computing
from asr.training.measures import Decode
from distributed.errors import UsageError


class SpeechStream:
    """One recording, from its start to its end; a new one is a new stream.

    Raises:
        UsageError: the model, its features or the search need whole recordings; the message names the remedy.
    """

    def __init__(
        self,
        inference: Inference[Recogniser],
        features: LogMel,
        tokenizer: Tokenizer,
        decode: Decode,
        *,
        rate: int,
        name: str = "stream",
    ) -> None:
        encoder = chunked(inference.model.encoder)
        if not isinstance(decode, DecodesOnline):
            raise SearchError(f"decode={decode.name} searches whole recordings; a stream takes decode=greedy")
        decode.check(inference.model)
        self.name = name
        self.inference = inference
        inference.model.eval()
        self._resampler = StreamResampler(rate, features.sample_rate)
        self._encoder = ConformerStream(encoder)
        self._features = FeatureStream(features, self._encoder.chunk_frames)
        self._search = decode.online(inference.model)
        self._words = OnlineWords(tokenizer, features.frame_seconds * encoder.subsampling)
        self._ended = False
        self._dtype = torch.float64 if inference.precision == "fp64" else torch.float32

    @property
    def partial(self) -> Transcript:
        """What is known so far. Words before the newest never change."""
        return Transcript(self.name, self._words.text, list(self._words.words), self._features.seconds)

    def accept(self, samples: NDArray[np.generic] | Tensor) -> None:
        """Take the next samples (N,), of any number: int16, or floating point with full scale at 1.

        Raises:
            BadUtterance: they have another shape or type, or are no numbers to compute with; nothing of them was taken.
            UsageError: the stream has ended.
        """
        if self._ended:
            raise UsageError(f"{self.name}: the stream has ended; begin another with model.stream()")
        waveform = mono_samples(samples, self.name)
        if defect := sample_defect(waveform.numpy()):
            raise BadUtterance(self.name, Path(self.name), f"within the samples given at {self._seconds}, {defect}")
        self._recognise(self._features.push(self._resampler.push(waveform)))

    def final(self) -> Transcript:
        """The text of the whole recording, which ends here."""
        if not self._ended:
            self._ended = True
            self._recognise(self._features.push(self._resampler.end()))
            self._recognise(self._features.end())
        found = self.partial
        if self._features.features.frames_of(self._features.heard):
            return found
        return Transcript(self.name, "", [], found.seconds, f"{self._seconds} is too short for one frame")

    @property
    def _seconds(self) -> str:
        return f"{self._features.seconds:.3f} s"

    def _recognise(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            with computing(self.inference.device, self.inference.precision):
                features_1TD = block.features_TD[None].to(self.inference.device, self._dtype)
                emitted = self._search.push(self._encoder.push(features_1TD)[0])
            self._words.add(emitted, block.seconds)
