"""What a configuration may name, and that nothing it names runs before it is found allowed."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from asr.parts import build, find_target, refusal
from distributed.errors import UsageError
from scripts.composition.compose import compose


def test_a_part_is_refused_where_a_plain_value_belongs() -> None:
    part = {"_target_": "asr.data.features.LogMel"}
    for annotation in (int, str, float | None, list[int], tuple[float, float], dict[str, int], dict[str, float] | None):
        assert refusal(part, annotation) is not None
    assert refusal([part, 240], tuple[float, float]) is not None
    for annotation in (Any, Callable[..., Any], OmegaConf, Callable[..., Any] | None):
        assert refusal(part, annotation) is None


def test_a_plain_value_is_refused_where_a_part_belongs() -> None:
    assert refusal(3, Callable[..., Any]) == "a node with a _target_"
    assert refusal(None, OmegaConf) == "a node with a _target_"
    with pytest.raises(UsageError, match="trainer=null: must be a node with a _target_"):
        compose("train", ["trainer=null"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scripts.report.main", "must lie in one of the packages asr, compression, distributed"),
        ("scripts.composition.environment.subprocess", "must lie in one of the packages asr, compression, distributed"),
        ("scripts.composition.settings.TrainSettings", "must lie in one of the packages asr, compression, distributed"),
        ("os.system", "must lie in one of the packages asr, compression, distributed"),
        ("LogMel", "must lie in one of the packages asr, compression, distributed"),
        ("asr.data.corpus.shutil", "must be a public class"),  # a module that one of ours imports
        ("asr.data.corpus.Path", "must be a public class"),  # a class from elsewhere
        ("asr.data.pipeline.LogMel", "must be a public class"),  # a re-export of our own
        ("asr.data.manifest._record", "must be a public class"),
        ("asr.data.manifest.write_manifest", "must be a public class"),  # a function that acts
        ("asr.runs.metrics.merge", "must be a public class"),
        ("asr.data.nothing.Here", "cannot be found"),
        ("asr.data.features.LogMal", "cannot be found"),
    ],
)
def test_what_is_no_part_cannot_be_named(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        find_target(name, "model")
    assert str(caught.value).startswith(f"model._target_={name}: ")


def test_parts_and_at_the_top_settings_can_be_named() -> None:
    assert find_target("asr.data.features.LogMel", "features").__name__ == "LogMel"
    assert find_target("asr.models.transducer.transducer", "model").__name__ == "transducer"
    settings = "scripts.composition.settings"
    assert find_target(f"{settings}.TrainSettings", "", settings).__name__ == "TrainSettings"


def test_inner_nodes_are_built_first_and_partial_ones_await_arguments() -> None:
    config = compose("train", ["model=lstm_tiny"])
    model = build(config.model, vocabulary_size=29, feature_dimension=80)
    assert model.vocabulary_size == 29
    assert model.encoder.subsampling == config.model.encoder.stack
    assert model.joiner.dimension == config.model.joiner.dimension


def test_what_a_run_gives_must_not_be_in_the_node_too() -> None:
    """A value has one home: a node that overrides what the run knows would be silently ignored otherwise."""
    config = compose("train", ["model=lstm_tiny"])
    with pytest.raises(TypeError, match="multiple values for keyword argument 'ctc_weight'"):
        build(config.model, vocabulary_size=29, feature_dimension=80, ctc_weight=0.0)
