"""From audio to text in three lines, without a configuration.

    from asr.recogniser import load

    model = load("exp/demo")
    texts = [each.text for each in model.transcribe(["a.wav", "b.flac"])]

Recordings of similar length are decoded together, and what is recognised does not depend on which; a recording longer
than a window is decoded in overlapping windows, of which a few are in memory at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from asr.data.audio import BadUtterance
from asr.data.audio_files import UNITS_SORTED, AudioFiles, Waveform
from asr.data.audio_inputs import Audio, name_of, source_of, stream_of
from asr.data.audio_streams import Pcm, Stream
from asr.data.batch import Batch, RawBatch
from asr.data.features import LogMel
from asr.data.pipeline import collate
from asr.data.plan import Budgets
from asr.data.resampling import rate_defect
from asr.data.tokenizer import Tokenizer
from asr.data.voice import voice_detector, voiced_windows
from asr.data.windows import Counted, Window, Windows, windows
from asr.decoding.ctc import CtcGreedy
from asr.decoding.forced_alignment import align_states
from asr.decoding.greedy import Greedy
from asr.decoding.joining import join
from asr.decoding.search import Hypothesis
from asr.decoding.timed_words import Word, padded_tokens, timed_words, token_confidences
from asr.decoding.transcript import Transcript
from asr.models.speech_model import Recogniser
from asr.models.transducer import Transducer
from asr.speech_stream import SpeechStream
from asr.trained_recogniser import load_recogniser
from asr.training.inference import Inference, chosen_device, states_of
from asr.training.inference import load as load_batches
from asr.training.measures import Decode
from distributed.errors import UsageError

Segments = Literal["windows", "vad"]

SEGMENTS = {"windows": windows, "vad": voiced_windows}
MAX_SYMBOLS = 10  # labels that greedy search takes from one state, as in conf/decode/greedy.yaml
MAX_FRAMES = 20_000  # feature frames decoded together, padding included


class Transcriber:
    """A trained model with a search; see ``load``."""

    def __init__(
        self,
        inference: Inference[Recogniser],
        features: LogMel,
        tokenizer: Tokenizer,
        decode: Decode,
        *,
        windows: Windows,
        segments: Segments,
        batch_size: int,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: must be at least 1 recording")
        decode.check(inference.model)
        self.inference = inference
        self.features = features
        self.tokenizer = tokenizer
        self.decode = decode
        if segments == "vad":
            voice_detector(features.sample_rate)  # refused before the long work
        self.windows = windows
        self._pieces = SEGMENTS[segments]
        self.budgets = Budgets(batch_size, max_frames, max_frames)
        self._by_ctc = isinstance(decode, CtcGreedy) or not isinstance(inference.model, Transducer)

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the speech that the model hears; audio of other rates is resampled."""
        return self.features.sample_rate

    def transcribe(self, audio: Audio | Iterable[Audio], *, alignment: bool = True) -> list[Transcript]:
        """The transcripts of recordings, in their order; one that fails has ``error`` set and holds no other up.

        Args:
            audio: one recording, or several.
            alignment: times of words from a forced alignment of what was recognised, by the CTC head where the model has
                one, otherwise by the transducer's lattice; False: from the states at which the search emitted the tokens,
                which is faster, and a word then ends where its last token begins.
        """
        return [each for _, each in sorted(self.each(audio, alignment=alignment), key=lambda pair: pair[0])]

    def stream(self, rate: int | None = None, name: str = "stream") -> SpeechStream:
        """A recording that is recognised while it is heard.

        Args:
            rate: of the samples it will be given, in Hz; None: ``sample_rate``.
            name: what its transcript and errors call it.

        Raises:
            UsageError: the model, its features or the search need whole recordings.
        """
        wanted = self.sample_rate if rate is None else rate
        return SpeechStream(self.inference, self.features, self.tokenizer, self.decode, rate=wanted, name=name)

    def each(self, audio: Audio | Iterable[Audio], *, alignment: bool = True) -> Iterator[tuple[int, Transcript]]:
        """As ``transcribe``, each with its place in ``audio``, as soon as it is known: shorter ones earlier."""
        several = [audio] if isinstance(audio, (str, Path, np.ndarray, Tensor, Waveform, Pcm)) else audio
        numbered = enumerate(several)
        while stretch := list(islice(numbered, UNITS_SORTED * self.budgets.utterances)):
            short: list[tuple[int, Path | Waveform]] = []
            streamed: list[tuple[int, str, Callable[[], Stream]]] = []
            for place, one in stretch:
                try:
                    source = source_of(one, place, self.sample_rate)
                except BadUtterance as bad:
                    yield place, _failed(str(bad.file), bad)
                    continue
                opened = stream_of(source, self.windows.seconds, self.sample_rate)
                if opened is not None:
                    streamed.append((place, name_of(source), opened))
                elif not isinstance(source, Pcm):
                    short.append((place, source))
            yield from self._each_short(short, alignment)
            for place, name, opened in streamed:
                yield place, self._in_windows(name, opened, alignment)

    def _each_short(
        self, numbered: Sequence[tuple[int, Path | Waveform]], alignment: bool
    ) -> Iterator[tuple[int, Transcript]]:
        files = AudioFiles([source for _, source in numbered], self.features)
        refused: list[BadUtterance] = []
        for batch in load_batches(files, files.units(self.budgets), on_refused=refused.append):
            while refused:
                bad = refused.pop(0)
                yield numbered[int(bad.utterance_id)][0], _failed(str(bad.file), bad)
            seconds = [files.seconds[int(each)] for each in batch.utterance_ids]
            answers = self._answers(batch, [0.0] * len(seconds), seconds, alignment)
            for index, duration, (text, words) in zip(batch.utterance_ids, seconds, answers, strict=True):
                place, source = numbered[int(index)]
                yield place, Transcript(name_of(source), text, words, duration)

    def _in_windows(self, name: str, opened: Callable[[], Stream], alignment: bool) -> Transcript:
        words: list[Word] = []
        texts: list[str] = []
        end, stream = 0.0, Stream(self.sample_rate, iter(()))
        heard = Counted(())
        try:
            stream = opened()
            heard = Counted(stream.blocks)
            if defect := rate_defect(stream.rate, self.sample_rate):
                raise BadUtterance(name, Path(name), defect)
            pieces = self._pieces(heard, stream.rate, self.sample_rate, self.windows)
            per_window = self.features.frames(self.windows.seconds)
            together = max(1, min(self.budgets.utterances, self.budgets.frames // max(per_window, 1)))
            broken: BadUtterance | None = None
            while broken is None:
                group, broken = _taken(pieces, together)
                if broken is not None:  # its reason is worth more than that a rest of it is too short
                    group = [each for each in group if self.features.frames_of(len(each.waveform))]
                if not group:
                    break
                for piece, (text, found) in zip(group, self._of_windows(name, group, alignment), strict=True):
                    texts.append(text)
                    words = join(words, found, piece.start, end) if piece.continues else [*words, *found]
                    end = piece.start + len(piece.waveform) / self.sample_rate
            if broken is not None:
                raise broken
            if not heard.samples:
                raise BadUtterance(name, Path(name), "the audio has zero length")
        except BadUtterance as bad:
            spoken = " ".join(word.text for word in words)
            return replace(_failed(name, bad), text=spoken, words=words, seconds=heard.samples / stream.rate)
        text = (
            texts[0] if len(texts) == 1 else " ".join(word.text for word in words)
        )  # the tokenizer's own, of one piece
        return Transcript(name, text, words, heard.samples / stream.rate)

    def _of_windows(self, name: str, group: Sequence[Window], alignment: bool) -> list[tuple[str, list[Word]]]:
        seconds = [len(each.waveform) / self.sample_rate for each in group]
        if not self.features.frames_of(len(group[-1].waveform)):
            raise BadUtterance(name, Path(name), f"{seconds[-1]:.3f} s is too short for one frame")
        signals = [self.features.model_input(each.waveform) for each in group]
        empty: list[list[int]] = [[] for _ in group]
        raw = RawBatch(0, 0, [f"{name}@{each.start:g}" for each in group], signals, empty, empty)
        batch = collate(raw, self.features.dimension, name, sum(seconds))
        return self._answers(batch, [each.start for each in group], seconds, alignment)

    def _answers(
        self, batch: Batch, offsets: Sequence[float], seconds: Sequence[float], alignment: bool
    ) -> list[tuple[str, list[Word]]]:
        """Text and words of every utterance of a batch."""
        if not batch.utterance_ids:
            return []
        found, confidences, paths = self.inference.ask(batch, lambda moved: self._ask(moved, alignment))
        state_seconds = self.features.frame_seconds * self.inference.model.subsampling
        return [
            (
                self.tokenizer.decode(each.tokens),
                timed_words(
                    each, path, certain, self.tokenizer,
                    state_seconds=state_seconds, offset_seconds=offset, length_seconds=duration,
                ),
            )
            for each, certain, path, offset, duration in zip(found, confidences, paths, offsets, seconds, strict=True)
        ]  # fmt: skip

    def _ask(
        self, batch: Batch, alignment: bool
    ) -> tuple[list[Hypothesis], list[list[float]], Sequence[Tensor | None]]:
        model = self.inference.model
        states_BSD, lengths_B = states_of(model, batch)
        found = self.decode(model, states_BSD, lengths_B)
        confidences = token_confidences(model, states_BSD, found, by_ctc=self._by_ctc)
        if not alignment:
            return found, confidences, [None] * len(found)
        tokens_BU = padded_tokens(found).to(states_BSD.device)
        lengths = torch.tensor([len(each.tokens) for each in found], device=states_BSD.device)
        recognised = replace(batch, targets=tokens_BU, target_lengths=lengths)
        return found, confidences, align_states(model, states_BSD, lengths_B, recognised, "auto")


def load(
    folder: str | Path,
    *,
    checkpoint: str = "best",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    decode: Decode | None = None,
    batch_size: int = 16,
    window_seconds: float = 30.0,
    overlap_seconds: float = 6.0,
    segments: Segments = "windows",
) -> Transcriber:
    """A trained model, ready to transcribe.

    Args:
        folder: of a run, or a model folder (a checkpoint, or what scripts/compress.py has written).
        checkpoint: of a run: best, last, avg:N, best:N or emergency.
        device: auto takes a GPU where there is one.
        decode: the search; None: greedy.
        batch_size: recordings decoded together, of similar length; of no influence on the result.
        window_seconds: longer recordings are decoded in windows of this length.
        overlap_seconds: of two windows; at most half a window.
        segments: of such recordings: overlapping windows, or by voice activity (vad), cut where nobody speaks.

    Raises:
        UsageError: the folder holds no model that can be used, or none that writes text; or there is no such device.
    """
    trained = load_recogniser(Path(folder), checkpoint, chosen_device(device))
    if decode is None:
        decode = cast(Decode, Greedy(max_symbols=MAX_SYMBOLS))  # which takes less of a model than a search may
    return Transcriber(
        trained.inference, trained.features, trained.tokenizer, decode,
        windows=Windows(window_seconds, overlap_seconds), segments=segments, batch_size=batch_size,
    )  # fmt: skip


def _taken(pieces: Iterator[Window], count: int) -> tuple[list[Window], BadUtterance | None]:
    """Up to ``count`` windows, and the error with which the recording broke off after them."""
    taken: list[Window] = []
    try:
        for piece in islice(pieces, count):
            taken.append(piece)  # kept when the next one breaks off
    except BadUtterance as bad:
        return taken, bad
    return taken, None


def _failed(name: str, bad: BadUtterance) -> Transcript:
    return Transcript(name, "", [], 0.0, bad.reason)
