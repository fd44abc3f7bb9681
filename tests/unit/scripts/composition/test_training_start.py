"""What a process does before it trains."""

from pathlib import Path

import pytest

from scripts.composition import training


class KeptError(Exception):
    """Raised where memory begins to be kept."""


def test_training_keeps_memory_that_it_frees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep() -> None:
        raise KeptError

    monkeypatch.setattr(training, "keep_freed_memory", keep)
    with pytest.raises(KeptError):
        training.train("train", ["experiment=demo", f"exp_dir={tmp_path}", "name=a"])
