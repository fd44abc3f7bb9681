"""What the hook layerwise_distillation refuses, in one line: teachers and settings that have no partner in the student."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig

from asr.parts import build
from asr.runs.model_folder import load_model
from compression.distillation.hook import LayerwiseDistillation
from distributed.errors import UsageError
from distributed.learners.world import World

KEY = "hooks.layerwise_distillation"

Make = Callable[..., Any]

SETTINGS: dict[str, Any] = {
    "weight": 1.0, "layers": None, "ctc_weight": 0.0, "transducer_weight": 0.0, "temperature": 1.0
}  # fmt: skip
CTC = ("model=ctc_ibm_lstm", "model.encoder.hidden=8", "model.encoder.layers=1", "model.encoder.stack=4")
REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {  # overrides of the teacher, settings, message
    "rate": (("model.encoder.stack=2",), {}, r"\.teacher=.*: it has a state for every 2 frames and this model .* 4, "),
    "layers": ((), {"layers": [[0, 1]]}, r"\.layers: the teacher has layers 0 to 0, not 1; name others$"),
    "own layers": ((), {"layers": [[1, 0]]}, r"\.layers: this model has layers 0 to 0, not 1; name others$"),
    "no CTC head": (("model.ctc_weight=0",), {"ctc_weight": 1.0}, r"\.ctc_weight: the teacher has no CTC head, "),
    "no transducer": (CTC, {"transducer_weight": 1.0}, r"\.transducer_weight: the teacher is no transducer; set "),
    "nothing": ((), {"weight": 0.0}, r": weight, ctc_weight and transducer_weight are 0; set one, "),
    "no layers": ((), {"layers": []}, r"\.layers=\[\]: pairs no layers; null pairs all, "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_partner_is_refused(case: str, teacher: Make) -> None:
    theirs, settings, message = REFUSED[case]
    student = load_model(teacher()).model
    with pytest.raises(UsageError, match=rf"^hooks\.layerwise_distillation{message}") as error:
        LayerwiseDistillation(teacher=teacher(*theirs), **SETTINGS | settings).on_auxiliary(student)
    assert "\n" not in str(error.value)


@pytest.fixture
def begin(teacher: Make, alone: World) -> Callable[..., None]:
    """``begin(hook, **changes)``: the start of a run, of a student like the teacher, some of whose parts are changed."""

    def start_fit(hook: LayerwiseDistillation, **changes: Any) -> None:
        loaded = load_model(teacher())
        parts = {
            "model": loaded.model,
            "description": loaded.description,
            "tokenizer": loaded.tokenizer,
            "world": alone,
        }
        run: Any = SimpleNamespace(load_model=lambda folder, key: load_model(folder, key), **parts | changes)
        hook.on_auxiliary(loaded.model)
        hook.on_fit_start(run, resumed=False)
        hook.close()

    return start_fit


def test_a_teacher_of_other_features_tokens_or_weights_is_refused(teacher: Make, begin: Callable[..., None]) -> None:
    states, posteriors = (
        LayerwiseDistillation(teacher=teacher(), **SETTINGS | {"ctc_weight": each}) for each in (0.0, 0.5)
    )
    begin(posteriors)
    description = load_model(teacher()).description
    features = {**(description.features or {}), "frame_shift_ms": 20.0}
    with pytest.raises(
        UsageError, match=rf"^{KEY}\.teacher=.*: that model hears other features .*: frame_shift_ms differ"
    ):
        begin(states, description=replace(description, features=features))
    others = SimpleNamespace(fingerprint="of other tokens")
    begin(states, tokenizer=others)  # states know no tokens
    with pytest.raises(
        UsageError, match=rf"^{KEY}\.teacher=.*: that model writes other tokens .* set {KEY}\.ctc_weight=0 "
    ):
        begin(posteriors, tokenizer=others)
    states.load_state_dict({"pinned": 1})
    with pytest.raises(UsageError, match=rf"^{KEY}\.teacher=.*: what is there now is not what this run began with; "):
        begin(states)


def test_a_model_without_an_encoder_and_no_teacher_at_all_are_refused(
    lm_config: Callable[..., DictConfig], teacher: Make, tmp_path: Path
) -> None:
    language_model = build(lm_config().model, vocabulary_size=11)
    with pytest.raises(UsageError, match=r"^hooks\.layerwise_distillation: a TokenLanguageModel has no encoder, "):
        LayerwiseDistillation(teacher=teacher(), **SETTINGS).on_auxiliary(language_model)
    with pytest.raises(UsageError, match=rf"^{KEY}\.teacher=.*: no checkpoint there; give "):
        LayerwiseDistillation(teacher=tmp_path, **SETTINGS).on_auxiliary(load_model(teacher()).model)
