"""A CTC model: its loss, its gradients, and that its encoder is that of the transducer it is to start."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from asr.data.batch import Batch
from asr.models.ctc import CtcModel
from scripts.composition.compose import compose

Build = Callable[..., CtcModel]
MakeBatch = Callable[..., Batch]


@pytest.mark.parametrize(
    ("name", "transducer"), [("ctc_conformer_tiny", "conformer_tiny"), ("ctc_ibm_lstm", "ibm_rnnt")]
)
def test_the_encoder_is_that_of_the_transducer(name: str, transducer: str) -> None:
    one, other = (compose("train", [f"model={each}"]).model.encoder for each in (name, transducer))
    assert one == other


@pytest.mark.parametrize(("name", "millions"), [("ctc_conformer_tiny", 2.07), ("ctc_ibm_lstm", 53.35)])
def test_parameter_counts(build: Build, name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build(name, feature_dimension=80)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0051)


def test_the_loss_is_the_sum_of_the_utterances_losses(build: Build, make_batch: MakeBatch) -> None:
    model = build("ctc_conformer_tiny", small=True).eval()
    batch = make_batch([60, 41], [6, 4])
    output = model(batch)
    expected = torch.zeros(())
    for row, (frames, tokens) in enumerate([(60, 6), (41, 4)]):
        states, lengths = model.encode(batch.features[row : row + 1, :frames], torch.tensor([frames]))
        log_probs = model.ctc_head(states).log_softmax(-1).transpose(0, 1)
        targets = batch.targets[row : row + 1, :tokens]
        expected += functional.ctc_loss(log_probs, targets, lengths, torch.tensor([tokens]), reduction="sum")
    torch.testing.assert_close(output.total, expected)
    assert output.weight == 2.0
    assert output.terms["ctc_impossible"] == 0


def test_impossible_utterances_count_and_all_parameters_get_gradients(build: Build, make_batch: MakeBatch) -> None:
    model = build("ctc_conformer_tiny", small=True)
    for batch, impossible in ((make_batch([8, 40], [3, 3]), 1), (make_batch([4], [9]), 1), (make_batch([], []), None)):
        model.zero_grad()
        output = model(batch)
        output.total.backward()
        assert output.total.isfinite()
        assert output.terms.get("ctc_impossible") == impossible
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_fifteen_steps_bring_the_loss_down(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build("ctc_conformer_tiny", small=True), make_batch([48, 40, 32], [4, 3, 2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        output = model(batch)
        (output.total / output.weight).backward()
        optimizer.step()
        losses.append(output.total.item())
    assert losses[-1] < 0.7 * losses[0]
