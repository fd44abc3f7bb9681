"""Text to speech with espeak-ng through ctypes, such that the same call always gives the same samples.

espeak-ng keeps state between utterances (random breath noise, the phase of the pitch flutter, the echo buffer) that
none of its functions resets, so that what it says depends on what it said before. The library is therefore loaded
afresh for every utterance (about 0.5 ms) and its random numbers are seeded. It also accepts unknown voices silently
and goes on with a default one; here every voice is checked.

espeak-ng: https://github.com/espeak-ng/espeak-ng (GPL-3.0), from the wheel ``espeakng-loader`` (extra ``synthetic``).
"""

import ctypes
import importlib.metadata
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.data.corpus import CorpusError
from distributed.errors import UsageError

SAMPLE_RATE = 22050  # Hz, fixed by the synthesiser

NOT_INSTALLED = (
    "the synthetic corpus is made with espeak-ng, which is not installed: "
    "run make setup, or pip install 'murmuration[synthetic]'"
)

ACCENTS = {
    "en-us": "gmw/en-US",
    "en-us-nyc": "gmw/en-US-nyc",
    "en-gb": "gmw/en",
    "en-gb-x-rp": "gmw/en-GB-x-rp",
    "en-gb-scotland": "gmw/en-GB-scotland",
    "en-gb-x-gbclan": "gmw/en-GB-x-gbclan",
    "en-gb-x-gbcwmd": "gmw/en-GB-x-gbcwmd",
    "en-029": "gmw/en-029",
}
"""Accents and their files in the synthesiser's data. (``en-gb`` is not a name that espeak-ng itself finds.)"""

VARIANTS = tuple([f"m{i}" for i in range(1, 9)] + [f"f{i}" for i in range(1, 6)])
"""Speakers: changes of pitch range, formants and voice quality that go with any accent."""

_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8, _FROM_CHARACTER = 2, 0x8000, 1, 1
_RATE, _PITCH = 1, 3
_BUFFER_MILLISECONDS = 1000

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

_speaking = threading.Lock()  # the library is one per process whatever the number of objects here


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
    )


def version() -> str:
    """Version of the installed espeakng-loader, which holds library and voices: other versions may sound different.

    Raises:
        CorpusError: it is not installed.
    """
    try:
        return importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        raise CorpusError(NOT_INSTALLED) from None


@contextmanager
def open_synthesiser() -> Iterator["Synthesiser"]:
    """Open a synthesiser that lives as long as the context.

    Raises:
        CorpusError: espeak-ng is not installed, or lacks a voice.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise CorpusError(NOT_INSTALLED) from None
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        _link_data(Path(espeakng_loader.get_data_path()), Path(folder))
        yield Synthesiser(library=Path(espeakng_loader.get_library_path()), data=Path(folder))


def _link_data(data: Path, folder: Path) -> None:
    """Fill ``folder`` with a view of the synthesiser's data that holds our voices alone.

    Without it espeak-ng reads its hundred voice files for every fresh library, half of the whole time.
    """
    for entry in data.iterdir():
        if entry.name not in ("lang", "voices"):
            (folder / entry.name).symlink_to(entry)
    (folder / "lang").mkdir()
    (folder / "voices" / "!v").mkdir(parents=True)
    links = {f"lang/{accent}": f"lang/{file}" for accent, file in ACCENTS.items()}
    links |= {f"voices/!v/{variant}": f"voices/!v/{variant}" for variant in VARIANTS}
    for link, target in links.items():
        if not (data / target).is_file():
            raise CorpusError(f"espeak-ng has no voice file {data / target}: install espeakng-loader 0.2.4")
        (folder / link).symlink_to(data / target)


class Synthesiser:
    """Speaks sentences; comes from ``open_synthesiser``."""

    def __init__(self, *, library: Path, data: Path) -> None:
        self._library = str(library)
        self._data = data

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int) -> Tensor:
        """``text`` as int16 samples of shape (samples,) at 22,050 Hz: a function of the arguments alone.

        Args:
            voice: an accent and a variant, ``en-us+m1``.
            words_per_minute: 80 to 450.
            pitch: 0 to 100; 50 is the voice's own.

        Raises:
            ValueError: there is no such voice, or nothing to say.
        """
        accent, _, variant = voice.partition("+")
        if accent not in ACCENTS or variant not in VARIANTS:
            raise UsageError(
                f"there is no voice {voice!r}: an accent ({', '.join(ACCENTS)}), '+', a variant ({', '.join(VARIANTS)})"
            )
        with _speaking, self._fresh_library() as library:
            _set_voice(library, voice)
            library.espeak_SetParameter(_RATE, words_per_minute, 0)
            library.espeak_SetParameter(_PITCH, pitch, 0)
            samples = _speak(library, text)
        if not any(samples):
            raise ValueError(f"nothing to say in {text!r}")
        return torch.frombuffer(samples, dtype=torch.int16)

    @contextmanager
    def _fresh_library(self) -> Iterator[ctypes.CDLL]:
        """Load a fresh copy of the library, in its initial state, and unload it afterwards."""
        if _is_loaded(self._library):
            raise CorpusError(
                f"{self._library} is in use in this process, and its state would leak into the corpus; "
                "make the corpus in a process of its own"
            )
        library = ctypes.CDLL(self._library)
        try:
            data = str(self._data).encode()
            rate = library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MILLISECONDS, data, _DO_NOT_EXIT)
            if rate != SAMPLE_RATE:
                raise CorpusError(f"espeak-ng does not start from {self._data} (answer {rate})")
            library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # by default the time of day
            yield library
            library.espeak_Terminate()
        finally:
            ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


def _is_loaded(path: str) -> bool:
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))  # the question itself added a reference
    return True


def _set_voice(library: Any, voice: str) -> None:
    answer = library.espeak_SetVoiceByName(voice.encode())
    library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
    identifier = library.espeak_GetCurrentVoice().contents.identifier.decode()
    if answer != 0 or identifier != voice:
        raise CorpusError(f"espeak-ng answered with voice {identifier!r} when asked for {voice!r}")


def _speak(library: Any, text: str) -> bytearray:
    samples = bytearray()

    def receive(data: int | None, count: int, events: int | None) -> int:
        if data and count > 0:
            samples.extend(ctypes.string_at(data, 2 * count))
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, _FROM_CHARACTER, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return samples
