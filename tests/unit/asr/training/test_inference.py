"""The loop over batches of all that ask a model: where it computes, what it leaves as it was, what it counts and says."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from asr.data.audio import BadUtterance
from asr.data.batch import Batch, RawBatch, Unit
from asr.data.pipeline import collate
from asr.models.speech_model import LossOutput, SpeechModel
from asr.training.inference import Inference, Statistics, chosen_device, load
from asr.training.precision import Precision
from distributed.errors import UsageError

CPU = torch.device("cpu")


class Linear(SpeechModel):
    """One layer; in training its output depends on chance."""

    has_lattice = False

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(3, 2), nn.Dropout(0.5)

    def forward(self, batch: Batch) -> LossOutput:
        return LossOutput(self.dropout(self.layer(batch.features)).sum(), batch.weight)


def batch_of(size: int) -> Batch:
    names, tokens = [str(index) for index in range(size)], [[1] for _ in range(size)]
    raw = RawBatch(0, 0, names, [torch.ones(7, 3) for _ in range(size)], tokens, tokens)
    return collate(raw, 3, "unit", audio_seconds=1.5 * size)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp64", torch.float64)])
def test_a_batch_goes_to_where_the_model_is_and_becomes_as_wide(precision: Precision, dtype: torch.dtype) -> None:
    """``meta`` stands for any device that is not the loader's."""
    meta = torch.device("meta")
    given = Inference(Linear(), meta, precision).ask(batch_of(2), lambda batch: batch)
    assert {each.device for each in (given.features, given.feature_lengths, given.targets)} == {meta}
    assert (given.features.dtype, given.targets.dtype) == (dtype, torch.int64)


def test_bf16_is_computed_under_autocast() -> None:
    layer = Linear().layer
    model = Linear()
    kinds = [
        Inference(model, CPU, precision).ask(batch_of(1), lambda batch: layer(batch.features).dtype)
        for precision in ("fp32", "bf16")
    ]
    assert kinds == [torch.float32, torch.bfloat16]


def test_a_model_in_training_goes_on_training_without_a_gradient_or_chance() -> None:
    model = Linear().train()
    inference = Inference(model, CPU, "fp32")
    answers = []
    for _, answer in inference.over([batch_of(3), batch_of(3)], lambda batch: model(batch).total):
        assert model.training, "between two batches it is the caller's"
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        answers.append(answer)
    assert answers[0] == answers[1]
    assert not answers[0].requires_grad
    with pytest.raises(ZeroDivisionError):
        inference.ask(batch_of(1), lambda _: 1 / 0)
    assert model.training, "also after an error"


def test_what_is_asked_is_counted_and_nothing_is_asked_of_nothing() -> None:
    inference = Inference(Linear(), CPU, "fp32")
    asked = list(inference.over([batch_of(2), batch_of(0), batch_of(4)], lambda batch: len(batch.utterance_ids)))
    assert [answer for _, answer in asked] == [2, 4]
    counted = inference.statistics
    assert (counted.utterances, counted.audio_seconds) == (6, 9.0)
    assert 0 < counted.seconds < 9
    assert str(Statistics(6, 9.0, 0.045)) == "6 utterances, 9.0 s of audio, in 0.0 s (real time factor 0.0050)"
    assert str(Statistics(6, 0.0, 0.05)) == "6 utterances, 0.0 s of audio, in 0.1 s", "texts have no duration"


class Refusing:
    """Units of which every second utterance cannot be used."""

    def __getitem__(self, unit: Unit) -> Batch:
        batch = batch_of(len(unit.utterances[::2]))
        batch.refused = [BadUtterance(str(each), Path("a.wav"), "is bad") for each in unit.utterances[1::2]]
        return batch


def test_refusals_while_loading_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    units = [Unit(0, index, 0, (2 * index, 2 * index + 1)) for index in range(2)]
    with caplog.at_level(logging.WARNING):
        assert len(list(load(Refusing(), units))) == 2
    assert [each.getMessage() for each in caplog.records] == [
        f"left out: a.wav: is bad (utterance {index})" for index in (1, 3)
    ]
    caplog.clear()
    met: list[BadUtterance] = []
    batches: Iterator[Batch] = load(Refusing(), units, on_refused=met.append)
    assert [len(each.utterance_ids) for each in batches] == [1, 1]
    assert [each.utterance_id for each in met] == ["1", "3"]
    assert not caplog.records


def test_a_device_that_is_not_there_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert chosen_device("auto") == chosen_device("cpu") == CPU
    with pytest.raises(
        UsageError, match=r"^device=cuda: torch .* finds 0 GPUs .*; device may be auto, cpu or cuda: choose device=cpu$"
    ):
        chosen_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert chosen_device("auto") == chosen_device("cuda") == torch.device("cuda", 0)
