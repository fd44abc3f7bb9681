"""torchaudio is loaded on first use; one that does not fit torch ends in one line with the remedy."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torchaudio.functional

from asr.torchaudio_parts import TorchaudioError, torchaudio_part
from scripts.composition.startup import REPOSITORY, line_for_people

UNDEFINED = "/lib/_torchaudio.so: undefined symbol: torch_exception_get_what_without_backtrace\nmore"


def test_a_part_is_torchaudios_own_module() -> None:
    assert torchaudio_part("functional") is torchaudio.functional


@pytest.mark.parametrize("kind", [OSError, ImportError, RuntimeError, AttributeError])
def test_a_pair_that_does_not_fit_ends_in_one_line(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise kind(UNDEFINED)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(TorchaudioError, match="make setup") as refused:
        torchaudio_part("compliance.kaldi")
    line = line_for_people(refused.value)
    assert line is not None
    assert line.startswith("error: torchaudio 2.")
    assert "undefined symbol" in line
    assert line.count("\n") == 1


def test_what_trains_can_be_imported_beside_a_broken_torchaudio(tmp_path: Path) -> None:
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('undefined symbol')")
    program = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(REPOSITORY)!r}]
import scripts.composition.trainer
from asr.data.features import LogMel
from asr.torchaudio_parts import TorchaudioError
try:
    LogMel(sample_rate=16000, num_mels=40, frame_length_ms=25.0, frame_shift_ms=10.0, dither=0.0,
           normalise="utterance", deltas=0, stack=1)
except TorchaudioError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("refused\n", "")
