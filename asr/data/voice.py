"""A recording cut where nobody speaks, so that each piece is decoded by itself: only one of them is in memory at a time.

Frames of 30 ms are judged by the voice activity detector of WebRTC (package webrtcvad). A piece begins when 3 of 5 frames are
voiced, with what came just before them, and ends when none was for half a second; one that is longer than a window is cut
into overlapping windows as well.
"""

import importlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from asr.data.audio import BadUtterance
from asr.data.resampling import StreamResampler
from asr.data.windows import Samples, Window, Windows
from distributed.errors import UsageError

FRAME_SECONDS = 0.03
ONSET, ONSET_FRAMES = 3, 5  # voiced frames, of so many, that begin a piece
SILENCE_SECONDS = 0.5  # that end it
PAD_SECONDS = 0.2  # kept on either side of speech
AGGRESSIVENESS = 2  # of the detector, 0 to 3: how readily it calls a frame unvoiced
DETECTOR_RATES = (8000, 16000, 32000, 48000)


def voice_detector(rate: int) -> Callable[[Tensor], bool]:
    """Whether a frame, (30 ms of samples,) float32 with full scale at 1, is voiced; each recording needs one of its own.

    Raises:
        UsageError: the detector is not installed, or does not hear this rate.
    """
    if rate not in DETECTOR_RATES:
        raise UsageError(
            f"segments=vad: the detector hears {', '.join(map(str, DETECTOR_RATES))} Hz, and this model {rate} Hz; choose "
            "segments=windows"
        )
    try:
        detector = importlib.import_module("webrtcvad").Vad(AGGRESSIVENESS)
    except ImportError:
        raise UsageError(
            "segments=vad: webrtcvad is not installed; install it: pip install -e '.[vad]', or choose segments=windows"
        ) from None

    def voiced(frame: Tensor) -> bool:
        return bool(detector.is_speech((32767 * frame.clamp(-1, 1)).short().numpy().tobytes(), rate))

    return voiced


def voiced_windows(blocks: Iterable[Samples], rate: int, wanted_rate: int, sizes: Windows) -> Iterator[Window]:
    """The pieces of a recording that comes in blocks of mono samples at ``rate``, at ``wanted_rate``.

    Where taking a block raises BadUtterance, what came before it is cut as if it were all, and the error follows.
    """
    resampler, cutter = StreamResampler(rate, wanted_rate), _Cutter(voice_detector(wanted_rate), wanted_rate, sizes)
    broken: BadUtterance | None = None
    try:
        for block in blocks:
            yield from cutter.push(resampler.push(torch.from_numpy(block)))
    except BadUtterance as bad:
        broken = bad
    yield from cutter.push(resampler.end())
    yield from cutter.end()
    if broken is not None:
        raise broken


class _Cutter:
    """Holds the samples of the open piece, or those that the next one may begin with."""

    def __init__(self, voiced: Callable[[Tensor], bool], rate: int, sizes: Windows) -> None:
        self.voiced = voiced
        self.rate = rate
        self.frame = round(FRAME_SECONDS * rate)
        self.length, self.step = round(sizes.seconds * rate), round((sizes.seconds - sizes.overlap_seconds) * rate)
        self.pad, self.silence = round(PAD_SECONDS * rate), round(SILENCE_SECONDS * rate)
        self.held = torch.zeros(0)
        self.first = 0  # number of the first sample held
        self.judged = 0  # samples whose frames were judged
        self.spoken = 0  # end of the last voiced frame
        self.recent: deque[bool] = deque(maxlen=ONSET_FRAMES)
        self.open = self.continues = False

    def push(self, samples: Tensor) -> Iterator[Window]:
        """The pieces that end in the next samples."""
        self.held = torch.cat([self.held, samples])
        while self.first + len(self.held) - self.judged >= self.frame:
            start = self.judged - self.first
            self.recent.append(self.voiced(self.held[start : start + self.frame]))
            self.judged += self.frame
            if self.recent[-1]:
                self.spoken = self.judged
            self.open = self.open or sum(self.recent) >= ONSET
            if not self.open:
                self._drop(self.judged - ONSET_FRAMES * self.frame - self.pad)
            elif self.judged - self.spoken >= self.silence:
                yield from self._close()
            elif self.judged - self.first > self.length:
                yield self._piece(self.first + self.length)
                self._drop(self.first + self.step)
                self.continues = True

    def end(self) -> Iterator[Window]:
        """The piece that the recording ends in."""
        if self.open:
            yield from self._close()

    def _close(self) -> Iterator[Window]:
        end = min(self.spoken + self.pad, self.first + len(self.held))
        if end > self.first:  # otherwise the window before has heard all of it
            yield self._piece(end)
        self._drop(end)
        self.recent.clear()
        self.open = self.continues = False

    def _piece(self, end: int) -> Window:
        return Window(self.first / self.rate, self.held[: end - self.first].clone(), self.continues)

    def _drop(self, end: int) -> None:
        """Let go of the samples before number ``end``."""
        count = max(0, end - self.first)
        self.held, self.first = self.held[count:], self.first + count
