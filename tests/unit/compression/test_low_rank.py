"""Factors of low rank: the best ones, of as many ranks as the target allows, in a model that computes with them."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asr.parts import plain
from asr.runs.model_folder import Description, LoadedModel
from compression.pruning.low_rank import (
    LowRank,
    LowRankFactorisation,
    LowRankLinear,
    LowRankLstm,
    factorised,
    factors,
    importance,
    matrices_of,
    ranks_for,
    saved,
)
from distributed.errors import UsageError
from scripts.composition.compose import compose
from tests.unit.compression.conftest import SIZES, SMALL

Make = Callable[..., Any]


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
def test_the_error_of_factors_is_what_the_other_singular_values_hold(shape: tuple[int, int]) -> None:
    weight = matrix(*shape).double()
    values = torch.linalg.svdvals(weight)
    for rank in range(1, min(shape) + 1):
        wide, narrow = factors(weight, rank)
        assert (wide.shape, narrow.shape) == ((shape[0], rank), (rank, shape[1]))
        error = (weight - wide @ narrow).square().sum()
        torch.testing.assert_close(error, values[rank:].square().sum(), rtol=1e-9, atol=1e-12)


MATRICES = {"a": matrix(12, 20), "b": matrix(30, 8, 1), "c": matrix(9, 9, 2) @ torch.diag(torch.logspace(0, -3, 9))}
SHAPES = {name: (each.shape[0], each.shape[1]) for name, each in MATRICES.items()}


@pytest.mark.parametrize("allocation", ["uniform", "energy"])
@pytest.mark.parametrize("goal", [20, 150, 300])
def test_ranks_save_the_goal_and_the_least_more(allocation: Any, goal: int) -> None:
    ranks = ranks_for(MATRICES, goal, allocation)
    total = sum(saved(SHAPES[name], rank) for name, rank in ranks.items())
    most = max(a + b for a, b in SHAPES.values())
    assert goal <= total < goal + (most if allocation == "energy" else 3 * most)
    assert all(saved(SHAPES[name], rank) > 0 for name, rank in ranks.items())


def test_uniform_ranks_keep_one_fraction_of_every_matrix() -> None:
    ranks = ranks_for(MATRICES, 250, "uniform")
    fractions = [rank * sum(SHAPES[name]) / (SHAPES[name][0] * SHAPES[name][1]) for name, rank in ranks.items()]
    steps = [sum(SHAPES[name]) / (SHAPES[name][0] * SHAPES[name][1]) for name in ranks]
    assert ranks.keys() == MATRICES.keys()
    assert max(fractions) - min(fractions) < max(steps)


def test_ranks_by_energy_hold_more_of_the_matrices_at_one_size() -> None:
    """The matrix whose singular values fall fast loses most."""
    held = {}
    for allocation in ("uniform", "energy"):
        ranks = ranks_for(MATRICES, 250, allocation)
        spectra = {name: torch.linalg.svdvals(each).square() for name, each in MATRICES.items()}
        held[allocation] = sum(float(each[: ranks.get(name)].sum() / each.sum()) for name, each in spectra.items())
    assert held["energy"] > held["uniform"]
    assert all(a >= b for each in MATRICES.values() for a, b in pairwise(importance(each, "energy").tolist()))


def test_a_target_beyond_rank_1_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^the chosen layers have 561 parameters, of which factors of rank 1 would save "
    ):
        ranks_for(MATRICES, 500, "energy")


@pytest.mark.parametrize("kind", ["conformer", "lstm", "ctc", "acoustic"])
def test_a_model_of_low_rank_matrices_computes_the_same_with_factors(
    kind: str, small_model: Make, make_batch: Make
) -> None:
    """Of rank 2, in encoder, joiner and heads: the loss, and the gradient that reaches the features."""
    model, batch = small_model(kind).double(), make_batch([40, 33], [4, 3])
    batch = replace(batch, features=batch.features.double().requires_grad_())
    there = matrices_of(model)
    ranks = {name: 2 for name, each in there.items() if saved((each.shape[0], each.shape[1]), 2)}
    with torch.no_grad():
        for name in ranks:
            wide, narrow = factors(there[name], 2)
            there[name].copy_(wide @ narrow)
    before = model(batch).total
    (expected,) = torch.autograd.grad(before, batch.features)
    state = factorised(model, ranks)
    made = LowRank(ranks=ranks)(model).eval()
    made.load_state_dict(state)
    assert {name for name, each in made.named_modules() if isinstance(each, LowRankLinear | LowRankLstm)} == set(ranks)
    after = made(batch).total
    torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.autograd.grad(after, batch.features)[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["conformer", "lstm"])
def test_the_pass_removes_a_fraction_of_the_encoder_and_the_folder_rebuilds_it(kind: str, small_model: Make) -> None:
    model = small_model(kind)
    before = sum(each.numel() for each in model.encoder.parameters())
    tokenizer: Any = None
    node = plain(compose("train", SMALL[kind]).model) | SIZES
    source = LoadedModel(model, None, tokenizer, Description(model=node, features=None, tokenizer=""), {})
    sparsity = 0.2
    apply = LowRankFactorisation(sparsity=sparsity, scope="encoder", modules=["encoder.*"], allocation="energy")
    made = apply(source, lambda split: [])
    after = sum(each.numel() for each in made.model.encoder.parameters())
    assert (1 - sparsity) * before - 200 < after <= (1 - sparsity) * before
    rebuilt = made.description.with_weights(made.model.state_dict())
    assert [name for name, _ in rebuilt.named_parameters()] == [name for name, _ in made.model.named_parameters()]
    assert all(torch.equal(rebuilt.state_dict()[name], each) for name, each in made.model.state_dict().items())


@pytest.mark.parametrize("kind", ["conformer", "lstm"])
def test_factors_are_quantised_and_trained_as_any_layer(
    kind: str, small_model: Make, make_batch: Make, quantized: Make
) -> None:
    model = small_model(kind)
    ranks = {name: 2 for name, each in matrices_of(model).items() if saved((each.shape[0], each.shape[1]), 2)}
    state = factorised(model, ranks)
    made = LowRank(ranks=ranks)(model)
    made.load_state_dict(state)
    twin = quantized(made).train()
    twin(make_batch([40, 33], [4, 3])).total.backward()
    narrow = [each for name, each in twin.named_parameters() if name.endswith("narrow.weight")]
    assert narrow
    assert all(each.grad is not None and each.grad.any() for each in narrow)
    assert not [name for name, each in twin.named_modules() if type(each) is nn.Linear]


def test_names_that_there_are_not_are_refused(small_model: Make) -> None:
    with pytest.raises(UsageError, match=r"^ranks: the model has no layer encoder\.nothing that can be factorised$"):
        LowRank(ranks={"encoder.nothing": 3})(small_model("ctc"))
