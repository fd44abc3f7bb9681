"""Memory and time of one long recording: what is measured is that of the process that transcribes it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.bench.long_recording import main


def test_a_recording_is_made_transcribed_and_measured(random_run: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    main(["--run", str(random_run("run")), "--minutes", "0.2", "--json", str(file)])
    figures = json.loads(file.read_text())["figures"]
    assert figures["audio_seconds"] == pytest.approx(12)
    assert 100 < figures["peak_mebibytes"] < 2048
    assert 0.5 < figures["processor_seconds"] < 60
