"""What was typed is what the page shows."""

import pytest
import yaml

from asr.parts import plain
from asr.reporting.run import leaves
from asr.reporting.words import backend_word, hook_words, model_word, setting
from scripts.composition.compose import CONF, compose
from tests.schemes import SCHEMES


@pytest.mark.parametrize("word", SCHEMES)
def test_a_backend_is_the_word_that_was_typed(word: str) -> None:
    tree = {"backend": yaml.safe_load((CONF / "backend" / f"{word}.yaml").read_text())}
    assert backend_word(dict(leaves("", tree))) == word


def test_models_and_hooks_are_words() -> None:
    config = dict(leaves("", plain(compose("train", ["model=conformer_tiny", "hooks=[spec_augment,dropconnect]"]))))
    assert model_word(config) == "conformer"
    assert hook_words(config) == ["spec_augment", "dropconnect"]
    assert hook_words({"hooks": {}}) == []
    assert backend_word({}) == model_word({}) == ""


def test_settings_are_named_as_they_are_typed() -> None:
    assert setting("backend._target_", "distributed.schemes.scalecom.ScaleCom") == ("backend", "scalecom")
    assert setting("schedule._target_", "asr.training.schedule.OneCycle") == ("schedule", "OneCycle")
    assert setting("optimizer.lr", 0.1) == ("optimizer.lr", "0.1")
