"""What a unit becomes: a padded batch, hooks by stage and then by position, and hooks that break something named."""

from collections.abc import Callable

import pytest
import torch

from asr.data.audio import read_audio
from asr.data.batch import RawBatch, Stage, Unit
from asr.data.features import LogMel
from asr.data.manifest import Utterance
from asr.data.pipeline import BatchHook, HookError, UnitDataset

Build = Callable[..., UnitDataset]
Recorder = Callable[..., BatchHook]


def test_a_batch_is_padded_and_complete(dataset: Build, corpus: list[Utterance], log_mel: LogMel) -> None:
    batch = dataset()[Unit(3, 1, 2, (2, 1, 0))]
    assert batch.utterance_ids == ["u2", "u1", "u0"]
    assert batch.feature_lengths.tolist() == [48, 38, 28]
    assert batch.features.shape == (3, 48, 20)
    assert batch.features.dtype == torch.float32
    assert batch.target_lengths.tolist() == [10, 0, 5]
    assert batch.targets.shape == (3, 10)
    assert batch.targets[2].tolist() == [9, 6, 13, 13, 16, 0, 0, 0, 0, 0]
    assert torch.equal(batch.targets, batch.predictor_inputs)
    assert (batch.weight, batch.refused, batch.unit) == (3.0, [], "3-1-2")
    assert batch.audio_seconds == pytest.approx(1.2)
    for row, index in enumerate((2, 1, 0)):
        expected_TF = log_mel.normalise(log_mel.mel(read_audio(corpus[index], 16000, resample=False)))
        assert torch.equal(batch.features[row, : len(expected_TF)], expected_TF)
        assert not batch.features[row, len(expected_TF) :].any()


def test_deltas_and_stacking_come_between_normalised_and_targets(
    dataset: Build, recorder: Recorder, corpus: list[Utterance], log_mel: LogMel
) -> None:
    """Hooks up to ``normalised`` see plain frames, whose deltas are then of what those hooks left."""
    wide = LogMel(
        sample_rate=16000, num_mels=20, frame_length_ms=25.0, frame_shift_ms=10.0, dither=0.0, normalise="utterance",
        deltas=2, stack=2,
    )  # fmt: skip
    log: list[str] = []

    def halve(raw: RawBatch) -> None:
        raw.signals[:] = [0.5 * signal for signal in raw.signals]

    stages: list[Stage] = ["mel", "normalised", "targets"]
    hooks = [(stage, recorder(stage, log, halve if stage == "normalised" else None)) for stage in stages]
    batch = dataset(features=wide, hooks=hooks)[Unit(0, 0, 0, (0, 1))]
    assert [line[:-2] for line in log] == ["mel (28, 20)", "normalised (28, 20)", "targets (14, 120)"]
    assert batch.features.shape == (2, 19, 120)
    assert batch.feature_lengths.tolist() == [14, 19]
    for row, length in enumerate((14, 19)):
        normal_TF = log_mel.normalise(log_mel.mel(read_audio(corpus[row], 16000, resample=False)))
        assert torch.equal(batch.features[row, :length], wide.in_context(0.5 * normal_TF))
    assert dataset(features=wide)[Unit(0, 0, 0, ())].features.shape == (0, 0, 120)


def test_only_empty_texts(dataset: Build) -> None:
    batch = dataset()[Unit(0, 0, 0, (1,))]
    assert batch.targets.shape == (1, 0)
    assert batch.target_lengths.tolist() == [0]


def test_hooks_run_by_stage_and_then_by_position(dataset: Build, recorder: Recorder) -> None:
    log: list[str] = []
    stages: list[Stage] = ["targets", "normalised", "mel", "waveform", "mel"]
    dataset(hooks=[(f"h{i}", recorder(stage, log)) for i, stage in enumerate(stages)])[Unit(0, 0, 0, (0,))]
    assert [line[:-2] for line in log] == [
        "waveform (4800,)",
        "mel (28, 20)",
        "mel (28, 20)",
        "normalised (28, 20)",
        "targets (28, 20)",
    ]
    assert [line[-1] for line in log[1:]] == ["0", "0", "1", "1"]  # normalised in between


def test_hooks_without_a_stage_do_not_run(dataset: Build, recorder: Recorder) -> None:
    idle = recorder(None, [], lambda _: pytest.fail("a hook without a stage saw a batch"))
    assert dataset(hooks=[("idle", idle)])[Unit(0, 0, 0, (0,))].weight == 1.0


def test_predictor_inputs_can_be_changed_alone(dataset: Build, recorder: Recorder) -> None:
    def swap(raw: RawBatch) -> None:
        raw.predictor_inputs[0][0] = 7

    batch = dataset(hooks=[("swap", recorder("targets", [], swap))])[Unit(0, 0, 0, (0,))]
    assert batch.predictor_inputs[0, 0] == 7
    assert batch.targets[0, 0] == 9


@pytest.mark.parametrize("stage", ["waveform", "mel", "normalised"])
def test_a_hook_that_breaks_a_signal_is_named(dataset: Build, recorder: Recorder, stage: Stage) -> None:
    def empty(raw: RawBatch) -> None:
        raw.signals[0] = raw.signals[0][:0]

    with pytest.raises(HookError, match=f"hook 'breaker' left utterance u0 .* in stage {stage}"):
        dataset(hooks=[("breaker", recorder(stage, [], empty))])[Unit(0, 0, 0, (0,))]


def test_a_hook_that_loses_an_utterance_is_named(dataset: Build, recorder: Recorder) -> None:
    with pytest.raises(HookError, match="hook 'loser' must leave 2 signals"):
        dataset(hooks=[("loser", recorder("mel", [], lambda raw: raw.targets.clear()))])[Unit(0, 0, 0, (0, 1))]


@pytest.mark.parametrize("fault", ["shorter inputs", "blank", "beyond"])
def test_a_hook_that_leaves_impossible_tokens_is_blamed(dataset: Build, fault: str) -> None:
    class Careless:
        stage = "targets"

        def on_batch(self, raw: RawBatch) -> None:
            raw.targets[0] = {"shorter inputs": [1, 2, 3, 4, 5, 6], "blank": [0] * 5, "beyond": [99] * 5}[fault]

    with pytest.raises(HookError, match=r"hook 'careless' left utterance u0 .* they must be as many, each a token"):
        dataset(hooks=[("careless", Careless())])[Unit(0, 0, 0, (0, 1))]
