"""torchaudio, loaded where a part of it is first used.

Its compiled half fits only some versions of torch, and one that does not fit fails at import with an undefined symbol.
Loaded on demand, such a pair ends in one line that names the remedy, and what does not use it goes on.
"""

import importlib
import threading
from importlib import metadata
from types import ModuleType

from distributed.errors import UserError

_loading = threading.Lock()


class TorchaudioError(UserError, ImportError):
    """torchaudio cannot be loaded beside the installed torch; the message names both versions and the remedy."""


def torchaudio_part(name: str) -> ModuleType:
    """The module ``torchaudio.<name>``, such as ``functional``; TorchaudioError if it cannot be loaded."""
    try:
        with _loading:  # its modules import each other in circles: a second thread would find half of one
            return importlib.import_module(f"torchaudio.{name}")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TorchaudioError(
            f"torchaudio {_version('torchaudio')} does not load beside torch {_version('torch')} ({reason}); "
            "install the versions that are known to work: make setup, or pip install -c requirements.lock torch torchaudio"
        ) from error


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"
