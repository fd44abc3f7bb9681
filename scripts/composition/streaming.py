"""Texts while recordings go on: what is printed of a stream, when, and in which form.

On a terminal the text so far stands in the last line and grows there; in a file or a pipe each change is a line of its own.
"""

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

from omegaconf import DictConfig

from asr.data.audio import BadUtterance
from asr.data.audio_inputs import live_stream_of, name_of
from asr.data.audio_streams import Pcm, Stream
from asr.data.resampling import rate_defect
from asr.data.windows import Samples
from asr.decoding.online_words import StreamedWord
from asr.decoding.transcript import Transcript, json_line, one_line, text_line, word_records
from asr.foreign.terminal import say, say_over, shown
from asr.recogniser import Transcriber
from asr.speech_stream import SpeechStream
from distributed.errors import UsageError

PIECE_SECONDS = 0.1  # of audio that is given to a stream at a time
TAIL_CHARACTERS = 200  # of the text so far that a line shows; a line with all of it would grow for hours

log = logging.getLogger(__name__)


def check_streamable(config: DictConfig) -> None:
    """Raise UsageError for settings of transcribe.py that a stream has no use for."""
    if config.format == "srt":
        raise UsageError(
            "stream=true prints text as it comes, and subtitles need all of it; choose format=text or json"
        )
    if config.out is not None:
        raise UsageError(f"stream=true prints on standard output alone; leave out={config.out} away")
    if config.segments != "windows":
        raise UsageError(f"segments={config.segments}: a stream is not cut into pieces; leave it away, or stream=true")


def log_not_transcribed(name: str, reason: str) -> None:
    """Log a recording that cannot be transcribed, with the reason."""
    log.warning("not transcribed: %s: %s", name, reason)


class Writer(ABC):
    """What is printed of one recording."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def partial(self, found: Transcript, elapsed: float) -> None:
        """The text so far, which has changed, ``elapsed`` seconds after the recording began."""

    @abstractmethod
    def final(self, found: Transcript, elapsed: float) -> None:
        """All of the text."""


class TerminalWriter(Writer):
    """The end of the text so far, in place."""

    def partial(self, found: Transcript, elapsed: float) -> None:
        say_over(found.text)

    def final(self, found: Transcript, elapsed: float) -> None:
        say_over("")
        say(text_line(found))


class LineWriter(Writer):
    """A line for each change: path, seconds heard, the end of the text; at last path and text."""

    def partial(self, found: Transcript, elapsed: float) -> None:
        tail = found.text if len(found.text) <= TAIL_CHARACTERS else f"...{found.text[-TAIL_CHARACTERS:]}"
        say(f"{shown(self.name)}\t{found.seconds:.2f}\t{shown(tail)}")

    def final(self, found: Transcript, elapsed: float) -> None:
        say(text_line(found))


class JsonWriter(Writer):
    """A JSON object for each change, with the words from number ``first`` on, that are new or have grown; at last everything."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._written: list[StreamedWord] = []  # of which all but the last stay as they are

    def partial(self, found: Transcript, elapsed: float) -> None:
        words = cast(list[StreamedWord], found.words)
        first = max(len(self._written) - 1, 0)
        if self._written and words[first] == self._written[first]:
            first += 1
        self._written = words
        if not words[first:]:  # a space
            return
        times = {"seconds": round(found.seconds, 3), "elapsed": round(elapsed, 3)}
        known = {"file": self.name, "event": "partial", **times, "first": first, "words": word_records(words[first:])}
        say(one_line(known))

    def final(self, found: Transcript, elapsed: float) -> None:
        say(json_line(found, event="final", elapsed=round(elapsed, 3)))


def writer_of(form: str, name: str) -> Writer:
    """How one recording is printed."""
    if form == "json":
        return JsonWriter(name)
    return TerminalWriter(name) if sys.stdout.isatty() else LineWriter(name)


def stream_recordings(model: Transcriber, audio: Iterable[Path | Pcm], form: str, pace: str) -> int:
    """Print the text of each recording while it goes on, one after the other; returns how many failed."""
    failed = 0
    heard = computed = 0.0
    for source in audio:
        name = name_of(source)
        try:
            pieces = live_stream_of(source, PIECE_SECONDS, model.sample_rate)
            if defect := rate_defect(pieces.rate, model.sample_rate):
                raise BadUtterance(name, Path(name), defect)
            stream = model.stream(pieces.rate, name)
        except BadUtterance as bad:
            failed += 1
            log_not_transcribed(name, bad.reason)
            continue
        spoken = pace == "spoken" and not isinstance(source, Pcm)  # a pipe has a pace of its own
        seconds, reason = follow(stream, paced(pieces) if spoken else pieces.blocks, writer_of(form, name))
        heard, computed = heard + stream.partial.seconds, computed + seconds
        if reason is not None:
            failed += 1
            log_not_transcribed(name, reason)
    if heard:
        log.info("%.1f s of audio in %.1f s of computation (real time factor %.4f)", heard, computed, computed / heard)
    return failed


def follow(stream: SpeechStream, pieces: Iterator[Samples], writer: Writer) -> tuple[float, str | None]:
    """Recognise and print one recording: seconds of computation, and why it broke off, if it did.

    Where it is interrupted by hand, what was heard until then is printed before the interrupt goes on.
    """
    began, computed, text = time.monotonic(), 0.0, ""
    reason: str | None = None
    interrupt: KeyboardInterrupt | None = None
    try:
        for piece in pieces:
            start = time.monotonic()
            stream.accept(piece)
            found = stream.partial
            computed += time.monotonic() - start
            if found.text != text:
                text = found.text
                writer.partial(found, time.monotonic() - began)
    except BadUtterance as bad:
        reason = bad.reason
    except KeyboardInterrupt as error:
        interrupt = error
    start = time.monotonic()
    found = stream.final()
    computed += time.monotonic() - start
    reason = reason or found.error
    if reason is None or found.text:
        writer.final(found, time.monotonic() - began)
    if interrupt is not None:
        raise interrupt
    return computed, reason


def paced(stream: Stream) -> Iterator[Samples]:
    """The pieces of a stream, each when it would have been spoken."""
    began, samples = time.monotonic(), 0
    for piece in stream.blocks:
        samples += len(piece)
        time.sleep(max(0.0, began + samples / stream.rate - time.monotonic()))
        yield piece
