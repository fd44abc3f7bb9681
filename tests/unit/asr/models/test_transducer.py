"""The model as one module: its loss, its gradients, its sizes, and how it is built from a configuration."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from asr.data.batch import Batch
from asr.losses.ctc import ctc_impossible, ctc_loss
from asr.losses.joint import Scores, TiledJoiner
from asr.models.joiner import Joiner
from asr.models.transducer import Transducer

Build = Callable[..., Transducer]
MakeBatch = Callable[..., Batch]
SMALL_MODELS = ["conformer_tiny", "lstm_tiny"]
every_small_model = pytest.mark.parametrize("name", SMALL_MODELS)


def count_millions(model: Transducer) -> float:
    """Parameters but for the CTC head, which is not needed after training."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("ctc_head")) / 1e6


@pytest.mark.parametrize(
    ("name", "vocabulary_size", "feature_dimension", "millions"),
    [
        ("conformer_tiny", 29, 80, 2.2),
        ("conformer_xs", 300, 40, 4.3),
        ("conformer_s", 1024, 80, 10.3),
        ("conformer_m", 1024, 80, 30.7),
        ("conformer_l", 1024, 80, 118.6),
        ("lstm_tiny", 29, 80, 1.4),
        ("lstm_s", 300, 40, 8.9),
        ("ibm_rnnt", 46, 80, 56.2),
        ("ibm_rnnt", 46, 120, 56.7),
        ("ibm_conformer", 46, 120, 57.6),
    ],
)
def test_parameter_counts(
    build: Build, name: str, vocabulary_size: int, feature_dimension: int, millions: float
) -> None:
    with torch.device("meta"):
        model = build(name, vocabulary_size=vocabulary_size, feature_dimension=feature_dimension)
    assert count_millions(model) == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize(
    ("name", "vocabulary_size", "feature_dimension", "papers_millions", "tolerance"),
    [
        ("conformer_s", 1024, 80, 10.3, 0.005),  # Gulati et al. 2020, table 1, which gives no joint dimension
        ("conformer_m", 1024, 80, 30.7, 0.005),
        ("conformer_l", 1024, 80, 118.8, 0.005),
        ("ibm_rnnt", 46, 170, 57, 0.01),  # Saon et al. 2021: 340 inputs for two frames, 100 of them an i-vector
        ("ibm_conformer", 46, 240, 63, 0.02),  # Saon et al. 2023: inner sizes and subsampling are not known exactly
    ],
)
def test_parameter_counts_are_the_papers(
    build: Build, name: str, vocabulary_size: int, feature_dimension: int, papers_millions: float, tolerance: float
) -> None:
    with torch.device("meta"):
        model = build(name, vocabulary_size=vocabulary_size, feature_dimension=feature_dimension)
    assert count_millions(model) == pytest.approx(papers_millions, rel=tolerance)


every_loss = pytest.mark.parametrize("loss", ["exact", "pruned", "torchaudio"])


@every_small_model
@every_loss
@pytest.mark.parametrize("training", [True, False])
def test_loss_is_finite_and_every_parameter_gets_a_gradient(
    build: Build, make_batch: MakeBatch, name: str, loss: str, training: bool
) -> None:
    model = build(name, small=True, loss=loss).train(training)
    output = model(make_batch([40, 33, 9], [5, 0, 2]))
    output.total.backward()
    assert output.total.shape == ()
    assert output.weight == 3.0
    assert output.total.item() == pytest.approx((output.terms["rnnt"] + 0.3 * output.terms["ctc"]).item())
    assert not any(term.requires_grad for term in output.terms.values())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.stride() == parameter.stride(), f"{parameter_name}: DistributedDataParallel copies it"
        # A constant added to all keys of a query changes no attention weight: that bias has no gradient by nature.
        if "query_key_value.bias" not in parameter_name:
            assert (parameter.grad != 0).any(), parameter_name


@every_small_model
@every_loss
@pytest.mark.parametrize("tokens", [[0, 0], [30, 30]], ids=["no tokens", "more tokens than states"])
def test_odd_targets_still_give_every_parameter_a_gradient(
    build: Build, make_batch: MakeBatch, name: str, loss: str, tokens: list[int]
) -> None:
    model = build(name, small=True, loss=loss)
    output = model(make_batch([1, 8], tokens))
    output.total.backward()
    assert output.total.isfinite()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@every_small_model
@every_loss
def test_an_emptied_unit_gives_zero_gradients(build: Build, make_batch: MakeBatch, name: str, loss: str) -> None:
    model = build(name, small=True, loss=loss)
    frozen = model.joiner.output.bias.requires_grad_(False)
    output = model(make_batch([], []))
    output.total.backward()
    assert output.total.item() == 0
    assert output.weight == 0
    assert frozen.grad is None
    assert all((p.grad == 0).all() for p in model.parameters() if p is not frozen)


def test_the_loss_changes_neither_other_weights_nor_their_names(build: Build) -> None:
    exact, pruned = (build("lstm_tiny", small=True, loss=loss).state_dict() for loss in ("exact", "pruned"))
    assert all(torch.equal(pruned[name], weight) for name, weight in exact.items())
    assert sorted(pruned.keys() - exact.keys()) == [
        "loss.acoustic.bias",
        "loss.acoustic.weight",
        "loss.language.weight",
    ]


@pytest.mark.parametrize("loss", ["pruned", "torchaudio"])
def test_other_losses_train(build: Build, make_batch: MakeBatch, loss: str) -> None:
    model, batch = build("lstm_tiny", small=True, loss=loss), make_batch([40, 33, 9], [5, 0, 2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    totals = []
    for _ in range(6):
        optimizer.zero_grad()
        output = model(batch)
        output.total.backward()
        optimizer.step()
        totals.append(output.total.item())
    assert totals[-1] < 0.8 * totals[0]


@every_loss
def test_bf16_autocast_reaches_every_loss(build: Build, make_batch: MakeBatch, loss: str) -> None:
    model, batch = build("conformer_tiny", small=True, loss=loss).eval(), make_batch([60, 41], [6, 4])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    output.total.backward()
    assert output.terms["rnnt"].dtype == torch.float32
    assert output.terms["rnnt"].item() == pytest.approx(model(batch).terms["rnnt"].item(), rel=0.03)


def test_without_ctc_there_is_no_head(build: Build, make_batch: MakeBatch) -> None:
    model = build("conformer_tiny", small=True, ctc_weight=0.0)
    assert not any("ctc" in name for name, _ in model.named_parameters())
    output = model(make_batch([20], [3]))
    assert list(output.terms) == ["rnnt"]
    assert torch.equal(output.total.detach(), output.terms["rnnt"])


@every_small_model
def test_bf16_autocast_stays_close(build: Build, make_batch: MakeBatch, name: str) -> None:
    model = build(name, small=True).eval()
    batch = make_batch([60, 41], [6, 4])
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    assert output.total.dtype == torch.float32
    assert {term.dtype for term in output.terms.values()} == {torch.float32}
    assert output.total.item() == pytest.approx(expected.total.item(), rel=0.01)
    assert output.total.item() != expected.total.item()


def test_bf16_autocast_reaches_the_products_of_the_loss(
    build: Build, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their operands are bfloat16; softmax, recursion and loss are not."""
    seen = []
    score = TiledJoiner.score

    def spy(joiner: TiledJoiner, open_n: Tensor, cells: int) -> Scores:
        scores = score(joiner, open_n, cells)
        seen.append((joiner.weight_VJ.dtype, scores.blank_N.dtype))
        return scores

    monkeypatch.setattr(TiledJoiner, "score", spy)
    model, batch = build("conformer_tiny", small=True), make_batch([40], [5])
    with torch.autocast("cpu", torch.bfloat16):
        model(batch).total.backward()
    model(batch)
    assert seen == [(torch.bfloat16, torch.float32), (torch.float32, torch.float32)]
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}


def test_the_predictor_reads_its_inputs_and_the_loss_the_targets(build: Build, make_batch: MakeBatch) -> None:
    model = build("conformer_tiny", small=True, ctc_weight=0.0).eval()
    batch = make_batch([40], [5])
    changed = replace(batch, predictor_inputs=batch.predictor_inputs.roll(1, dims=1))
    both = replace(changed, targets=changed.predictor_inputs)
    totals = {model(b).total.item() for b in (batch, changed, both)}
    assert len(totals) == 3


@every_small_model
def test_copies_and_state_dicts_compute_the_same(build: Build, make_batch: MakeBatch, name: str) -> None:
    model, batch = build(name, small=True).eval(), make_batch([40, 22], [5, 3])
    other = build(name, small=True).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other.load_state_dict(model.state_dict())
    expected = model(batch).total
    assert torch.equal(other(batch).total, expected)
    assert torch.equal(copy.deepcopy(model)(batch).total, expected)


@every_small_model
def test_the_same_seed_builds_the_same_model(build: Build, name: str) -> None:
    first, second = build(name, small=True), build(name, small=True)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@every_small_model
def test_thirty_steps_fit_a_batch(build: Build, make_batch: MakeBatch, name: str) -> None:
    model, batch = build(name, small=True), make_batch([48, 40, 32], [4, 3, 2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        output = model(batch)
        (output.total / output.weight).backward()
        optimizer.step()
        losses.append(output.total.item())
    assert losses[-1] < 0.3 * losses[0]


def test_ctc_of_an_impossible_utterance_is_dropped_alone() -> None:
    logits_BSV = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    targets, lengths = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]]), torch.tensor([3, 3])
    total = ctc_loss(logits_BSV, lengths, targets, torch.tensor([4, 2]))
    alone = ctc_loss(logits_BSV[1:], lengths[1:], targets[1:], torch.tensor([2]))
    torch.testing.assert_close(total, alone)
    (gradient,) = torch.autograd.grad(total, logits_BSV)
    assert (gradient[0] == 0).all()


def test_utterances_that_ctc_cannot_write_are_counted(build: Build, make_batch: MakeBatch) -> None:
    """One with 2 states and 3 tokens, one with 3 states, 3 tokens and a repeat, which needs a blank in between."""
    model = build("conformer_tiny", small=True)
    batch = make_batch([8, 12, 12, 20], [3, 3, 3, 0])
    batch.targets[1, :3], batch.targets[2, :3] = torch.tensor([4, 4, 5]), torch.tensor([4, 5, 4])
    batch.targets[3] = 7  # padding, which repeats
    output = model(batch)
    assert output.terms["ctc_impossible"].item() == 2
    assert not output.terms["ctc_impossible"].requires_grad


@given(tokens=st.lists(st.integers(1, 3), max_size=6), states=st.integers(1, 12))
def test_what_ctc_cannot_write_is_what_costs_infinitely_much(tokens: list[int], states: int) -> None:
    targets_BU, lengths_B = torch.tensor([[*tokens, 1]]), torch.tensor([len(tokens)])
    log_probs_SBV = torch.zeros(states, 1, 4).log_softmax(-1)
    loss = functional.ctc_loss(log_probs_SBV, targets_BU, torch.tensor([states]), lengths_B, reduction="sum")
    impossible_B = ctc_impossible(torch.tensor([states]), targets_BU, lengths_B)
    assert impossible_B.tolist() == [bool(loss.isinf())]


def test_joiner_refuses_an_unknown_combination() -> None:
    with pytest.raises(ValueError, match=r"model\.joiner\.combine must be 'add' or 'multiply', got 'concat'"):
        Joiner(vocabulary_size=3, encoder_dimension=2, predictor_dimension=2, dimension=2, combine="concat")
