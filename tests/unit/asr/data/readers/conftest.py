"""Small trees in the layouts that users have: audio of noise, and tables written byte for byte."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from omegaconf import DictConfig, OmegaConf

from asr.data.corpus import Corpus, CorpusError
from asr.data.manifest import Utterance, read_manifest
from asr.parts import build, validate
from scripts.composition.compose import CONF


@pytest.fixture
def write_audio(tmp_path: Path) -> Callable[..., Path]:
    """Write noise to a path below the tree, as its suffix says."""

    def write(name: str, seconds: float = 0.5, *, sample_rate: int = 16000, channels: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (round(seconds * sample_rate), channels)[: 1 if channels == 1 else 2]
        soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(shape), sample_rate)
        return path

    return write


@pytest.fixture
def write_bytes(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write a table below the tree."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Corpus]:
    """What ``data=name`` with overrides of its keys builds, on the tree, without composing the rest of a run."""

    def make(name: str, *overrides: str) -> Corpus:
        node = OmegaConf.load(CONF / "data" / f"{name}.yaml")
        given = [f"root={tmp_path}", f"cache={tmp_path / 'cache'}", *overrides]
        config = OmegaConf.merge({"data": node}, {"data": OmegaConf.from_dotlist(given)})
        assert isinstance(config, DictConfig)
        validate(config)
        made: Corpus = build(config.data)
        return made

    return make


@pytest.fixture
def utterances(corpus: Callable[..., Corpus]) -> Callable[..., list[Utterance]]:
    """The utterances of the split train."""
    return lambda name, *overrides: read_manifest(corpus(name, *overrides).prepare()["train"])


@pytest.fixture
def refusal(corpus: Callable[..., Corpus]) -> Callable[..., str]:
    """The message with which a corpus is refused; one line."""

    def refuse(name: str, *overrides: Any) -> str:
        with pytest.raises(CorpusError) as caught:
            corpus(name, *overrides).prepare()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refuse
