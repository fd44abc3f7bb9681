"""What a run folder says of itself is read back, and refused in one line where it cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.composition.run_configuration import load_run_config


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


def test_a_run_of_a_version_without_some_setting_says_which(run_with: Callable[..., Path]) -> None:
    def change(content: dict[str, Any]) -> None:
        del content["data"]["words_per_minute"]

    with pytest.raises(
        UsageError, match=r"data\.words_per_minute missing, which an earlier version .* conf/data"
    ) as caught:
        load_run_config(run_with(change))
    assert "\n" not in str(caught.value)


def test_a_part_of_a_part_is_looked_at_too(run_with: Callable[..., Path]) -> None:
    def change(content: dict[str, Any]) -> None:
        del content["model"]["encoder"]["dropout"]

    with pytest.raises(UsageError, match=r"model\.encoder\.dropout missing"):
        load_run_config(run_with(change))


def test_a_run_folders_configuration_cannot_name_foreign_code(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model:\n  _target_: subprocess.run\n  args: [touch, pwned]\n")
    with pytest.raises(UsageError, match="must lie in one of the packages"):
        load_run_config(tmp_path)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.yaml there"):
        load_run_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [1", "cannot be read"),
        ("3", "not a configuration"),
        ("just text", "not a configuration"),
        ("- a\n- b", "not a configuration"),
        ("seed: ${nothing}", "line 1 has an interpolation"),
        ("seed: ${oc.env:HOME}", "line 1 has an interpolation"),
        ("a: &a [1]\nb: [*a, *a]", "it has aliases"),
        ("seed: \0", "holds a NUL character"),
        ("", "not a configuration"),
        ("{}", "_target_, backend, batch, .* missing"),
        ("_target_: scripts.composition.settings.TrainSettings\nseed: 1", "backend, .* missing"),
        ("_target_: scripts.composition.settings.TrainSettings\nseed: one", "seed=one: must be a whole number"),
    ],
)
def test_a_damaged_configuration_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        load_run_config(tmp_path)
    assert "\n" not in str(caught.value)
