"""What a configuration may name, and that nothing it names runs before it is found allowed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from scripts.configuration import compose, load_run_config
from scripts.startup import UsageError
from scripts.validation import find_target, refusal


@pytest.fixture
def run_with(tmp_path: Path) -> Callable[..., Path]:
    """A run folder whose configuration is that of a training run, changed."""
    content = OmegaConf.to_container(compose("train", []), resolve=True)
    assert isinstance(content, dict)

    def make(change: Callable[[dict[Any, Any]], None]) -> Path:
        change(content)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path

    return make


def test_the_configuration_of_a_run_is_read_back(run_with: Callable[..., Path]) -> None:
    config = load_run_config(run_with(lambda content: None))
    assert isinstance(config, DictConfig)
    assert config.data._target_ == "asr.data.synthetic.SyntheticCorpus"


@pytest.mark.parametrize("nested", [False, True])
def test_foreign_code_in_a_list_is_refused_before_anything_is_built(
    run_with: Callable[..., Path], tmp_path: Path, nested: bool
) -> None:
    victim = tmp_path / "victim"
    call = {"_target_": "pathlib.Path.write_text", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(victim)]}]}

    def change(content: dict[str, Any]) -> None:
        content["data"]["words_per_minute"] = [[call]] if nested else [call, 240]

    with pytest.raises(UsageError, match=r"^data\.words_per_minute.*(must lie in one of|must be a list)"):
        load_run_config(run_with(change))
    assert not victim.exists()


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
        ("scripts.report.main", "must lie in one of the packages asr, distributed"),
        ("scripts.environment.subprocess", "must lie in one of the packages asr, distributed"),
        ("scripts.settings.TrainSettings", "must lie in one of the packages asr, distributed"),
        ("os.system", "must lie in one of the packages asr, distributed"),
        ("LogMel", "must lie in one of the packages asr, distributed"),
        ("asr.data.corpus.shutil", "must be a public class"),  # a module that one of ours imports
        ("asr.data.corpus.Path", "must be a public class"),  # a class from elsewhere
        ("asr.data.pipeline.LogMel", "must be a public class"),  # a re-export of our own
        ("asr.data.corpus._POLL_SECONDS", "must be a public class"),
        ("asr.data.manifest.write_manifest", "must be a public class"),  # a function that acts
        ("asr.training.metrics.merge", "must be a public class"),
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
    assert find_target("scripts.settings.TrainSettings", "").__name__ == "TrainSettings"
