"""A part of a batch is a batch of its own."""

import pytest
import torch

from asr.data.batch import Batch


def test_a_part_is_padded_only_as_its_utterances_need() -> None:
    lengths, tokens = torch.tensor([3, 5, 10]), torch.tensor([2, 0, 4])
    features = torch.arange(3 * 10 * 2, dtype=torch.float32).reshape(3, 10, 2)
    targets = torch.arange(12).reshape(3, 4)
    batch = Batch(
        ["a", "b", "c"], features, lengths, targets, tokens, targets + 1, 3.0, "0-1-2", 1.8, metrics={"x": 1.0}
    )
    part = batch.part(0, 2)
    assert part.utterance_ids == ["a", "b"]
    assert torch.equal(part.features, features[:2, :5])
    assert torch.equal(part.feature_lengths, lengths[:2])
    assert torch.equal(part.targets, targets[:2, :2])
    assert torch.equal(part.predictor_inputs, targets[:2, :2] + 1)
    assert (part.weight, part.unit, part.metrics) == (2.0, "0-1-2[0:2]", {})
    assert part.audio_seconds == pytest.approx(0.8), "by frames: 8 of 18"
    assert part.weight + batch.part(2, 3).weight == batch.weight
