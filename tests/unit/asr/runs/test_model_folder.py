"""A model as a folder: what is read is what was written, transforms come back, and damage ends in one line."""

import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import DESCRIPTION, WEIGHTS, check_sizes, load_model, read_description, save_model
from distributed.errors import UsageError

Run = Callable[..., Path]
RETENTION = {"_target_": "asr.runs.checkpoint.Retention", "keep_last": 1, "keep_best": 1}
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.fixture
def saved(random_model_folder: Path) -> Path:
    """A model folder of a small recogniser with random weights."""
    return random_model_folder


def test_what_is_read_is_what_was_written(saved: Path, tmp_path: Path) -> None:
    loaded = load_model(saved)
    save_model(loaded, tmp_path / "copy")
    copy = load_model(tmp_path / "copy")
    assert copy.description == loaded.description
    assert copy.tokenizer.fingerprint == loaded.tokenizer.fingerprint
    assert copy.features is not None
    assert copy.features.dimension == 20
    assert copy.origin["weights_sha256"] == loaded.origin["weights_sha256"]
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(copy.model.state_dict()[name], value), name


def test_a_folder_replaces_one_of_its_name(saved: Path, tmp_path: Path) -> None:
    loaded = load_model(saved)
    save_model(loaded, tmp_path / "copy")
    with torch.no_grad():
        loaded.model.joiner.output.bias.fill_(3.0)
    save_model(loaded, tmp_path / "copy")
    assert (load_model(tmp_path / "copy").model.joiner.output.bias == 3.0).all()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_a_kill_left_behind_is_in_nobodys_way(saved: Path, tmp_path: Path) -> None:
    loaded = load_model(saved)
    (tmp_path / ".writing-copy").mkdir()
    save_model(loaded, tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / ".replaced-copy")  # the kill came between two renames
    save_model(loaded, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == ["copy"]


def test_a_model_that_its_description_does_not_build_replaces_nothing(saved: Path, tmp_path: Path) -> None:
    loaded = load_model(saved)
    save_model(loaded, tmp_path / "copy")
    loaded.model.joiner.output = torch.nn.Linear(3, 4)
    with pytest.raises(UsageError, match=r"its weights do not fit model\.yaml"):
        save_model(loaded, tmp_path / "copy")
    assert load_model(tmp_path / "copy").description == loaded.description


def test_weights_in_any_layout_are_written(saved: Path, tmp_path: Path) -> None:
    loaded = load_model(saved)
    weight = loaded.model.joiner.output.weight
    weight.data = weight.data.t().contiguous().t()
    save_model(loaded, tmp_path / "copy")
    assert torch.equal(load_model(tmp_path / "copy").model.joiner.output.weight, weight)


def test_building_leaves_the_generator_alone(saved: Path) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_precision_of_the_weights_comes_back(saved: Path, tmp_path: Path) -> None:
    loaded = load_model(saved)
    double = replace(loaded, model=loaded.model.double(), description=replace(loaded.description, dtype="float64"))
    save_model(double, tmp_path / "double")
    assert load_model(tmp_path / "double").model.joiner.output.weight.dtype == torch.float64


def test_a_run_stands_for_its_best_checkpoint(random_run: Run, tmp_path: Path) -> None:
    run = random_run("run")
    chosen = model_folder_of(run, "init_from")
    assert chosen.parent == run / "checkpoints"
    assert model_folder_of(chosen, "init_from") == chosen
    with pytest.raises(UsageError, match=r"^init_from=.*none: no checkpoint there; give the folder of a trained run"):
        model_folder_of(tmp_path / "none", "init_from")


def changed(folder: Path, **values: object) -> Path:
    record = yaml.safe_load((folder / DESCRIPTION).read_text()) | values
    (folder / DESCRIPTION).write_text(yaml.safe_dump(record))
    return folder


def without(folder: Path, part: str, key: str) -> dict[str, object]:
    """The model of a description, of which a part lacks a key."""
    model: dict[str, Any] = yaml.safe_load((folder / DESCRIPTION).read_text())["model"]
    del model[part][key]
    return model


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / DESCRIPTION).unlink(), r"^model=.*: no model.yaml there; give a model folder"),
        (lambda f: (f / DESCRIPTION).write_text("model: ["), r"model.yaml: cannot be read: "),
        (lambda f: (f / DESCRIPTION).write_text("3"), r"model.yaml: cannot be read: "),
        (lambda f: (f / DESCRIPTION).write_text("x" * (1 << 21)), r"model.yaml: larger than the 0.5 MiB that a config"),
        (lambda f: changed(f, format=99), r"model.yaml: format 99, this version reads 1"),
        (lambda f: changed(f, unknown=1), r"model.yaml: cannot be read: .*unknown"),
        (lambda f: changed(f, model={"_target_": "os.system"}), r"_target_=os.system: must lie in one of the packages"),
        (lambda f: (f / DESCRIPTION).write_text(BOMB), r"model.yaml: cannot be read: it has aliases"),
        (lambda f: (f / DESCRIPTION).write_text("model: &a {x: *a}"), r"model.yaml: cannot be read: it has aliases"),
        (lambda f: (f / DESCRIPTION).write_text("model: " + "[" * 5000), r"model.yaml: cannot be read: "),
        (lambda f: changed(f, model=3), r"model.yaml: model: must be a node with a _target_, got 3"),
        (lambda f: changed(f, model={}), r"model.yaml: model: must be a node with a _target_"),
        (lambda f: changed(f, model={"_target_": "asr.models.ctc.CtcModel"}), r"model: encoder, .* missing"),
        (lambda f: changed(f, model=RETENTION), r"_target_=asr.runs.checkpoint.Retention: makes no SpeechModel"),
        (
            lambda f: changed(f, model={"_target_": "asr.runs.checkpoint_manifest.CheckpointError"}),
            r"makes no SpeechModel",
        ),
        (lambda f: changed(f, features=RETENTION), r"features._target_=.*: makes no LogMel"),
        (lambda f: changed(f, dtype="load"), r"tokenizer, dtype, transforms or made_of is not of its kind"),
        (lambda f: changed(f, transforms=3), r"tokenizer, dtype, transforms or made_of is not of its kind"),
        (lambda f: changed(f, transforms=[{"_target_": "subprocess.run"}]), r"must lie in one of the packages"),
        (lambda f: (f / WEIGHTS).unlink(), r"model.safetensors: missing, truncated or altered"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]), r"missing, truncated or altered"),
        (lambda f: changed(f, model=without(f, "joiner", "combine")), r"model.yaml.*combine"),
        (lambda f: changed(f, model=without(f, "encoder", "_partial_")), r"model.yaml.*feature_dimension"),
        (lambda f: changed(f, tokenizer="other"), r"tokenizer: not the tokenizer that model.yaml names"),
    ],
)
def test_damage_is_refused_in_one_line(saved: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(saved)
    with pytest.raises(UsageError, match=message) as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)


def test_weights_of_other_sizes_are_refused_in_one_line(saved: Path) -> None:
    description = yaml.safe_load((saved / DESCRIPTION).read_text())
    description["model"]["joiner"]["dimension"] += 1
    changed(saved, model=description["model"])
    with pytest.raises(UsageError, match=r"its weights do not fit model.yaml: joiner.* differ$") as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)


HUGE = {
    "dimension": ({"joiner": {"dimension": 10**9}}, r"joiner\..* by the description"),
    "overflow": ({"joiner": {"dimension": 10**18}}, r"it cannot be built: "),
    "layers": ({"encoder": {"layers": 1000}}, r"it has many more parameters than the \d+ weights that are there"),
    "vocabulary": ({"vocabulary_size": 10**9}, r"of the weights|by the description"),
}


def test_a_depth_beyond_all_models_is_refused_before_anything_is_built(saved: Path) -> None:
    model = yaml.safe_load((saved / DESCRIPTION).read_text())["model"]
    changed(saved, model=model | {"encoder": model["encoder"] | {"layers": 10**9}})
    with pytest.raises(
        UsageError, match=r"encoder\.layers=1000000000: must be a whole number at least 1 and at most 1000$"
    ):
        load_model(saved)


@pytest.mark.parametrize("case", HUGE)
def test_sizes_beyond_all_machines_are_refused_at_once(saved: Path, case: str) -> None:
    load_model(saved)
    sizes, message = HUGE[case]
    description = yaml.safe_load((saved / DESCRIPTION).read_text())
    model = description["model"]
    for key, value in sizes.items():
        model[key] = model[key] | value if isinstance(value, dict) else value
    changed(saved, model=model)
    peak_before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UsageError, match=rf"its weights do not fit model.yaml: .*{message}") as caught:
        load_model(saved)
    with pytest.raises(UsageError, match=r"its weights do not fit model\.yaml"):
        check_sizes(saved, read_description(saved)[0])
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 50_000  # KiB
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"num_mels": 10**9}, {"frame_length_ms": 1e12}])
def test_features_beyond_all_machines_are_refused_at_once(saved: Path, changes: dict[str, float]) -> None:
    features = yaml.safe_load((saved / DESCRIPTION).read_text())["features"] | changes
    changed(saved, features=features)
    (name,) = changes
    with pytest.raises(UsageError, match=rf"^features\.{name}"):
        load_model(saved)


def test_a_checkpoint_that_cannot_be_read_is_never_passed_over_in_silence(
    random_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run = random_run("run")
    (whole,) = (run / "checkpoints").iterdir()
    torn = run / "checkpoints" / "step-00000009"
    shutil.copytree(whole, torn)
    (torn / "manifest.json").write_text("{")
    assert model_folder_of(run, "run") == whole
    assert f"checkpoint passed over: {torn}" in caplog.text
    shutil.rmtree(whole)
    with pytest.raises(UsageError, match=rf"^run=.*: no checkpoint there; .*; {torn}"):
        model_folder_of(run, "run")
