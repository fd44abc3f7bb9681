"""Diagnostics: known answers on quadratic losses, what they leave behind, and when they are taken."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from asr.data.batch import Batch, Unit
from asr.data.plan import BatchPlan
from asr.hooks.diagnostics import Diagnostics, TooFewBatchesError, measured_gradients
from asr.hooks.measurement import drawn_batches
from asr.models.speech_model import LossOutput, SpeechModel
from asr.runs.progress import Progress
from asr.training.hook import Hook, Run
from asr.training.idle import IdleGroups
from asr.training.loss_gradients import LossGradients
from asr.training.loss_terms import LossTerms
from asr.training.memory import MemoryGuard
from asr.training.objective import Objective
from asr.training.schedule import Constant, Horizon, LearningRate
from distributed.backend import Backend
from distributed.keyed import keyed_seed
from distributed.learners.world import World
from distributed.schemes.allreduce import AllReduce
from tests.schemes import SCHEMES

ELEMENTS, UTTERANCES, LEARNERS, PROBE, ALPHA, PENALTY = 7, 48, 3, 2, 0.3, 0.1
VALUES = torch.randn(UTTERANCES, 2, ELEMENTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CENTRES, CURVATURES = VALUES[:, 0], VALUES[:, 1].abs_()


class Quadratic(SpeechModel):
    """An utterance's loss is sum_k h_k (w_k - c_k)^2 / 2: two frames give its centre c and its curvature h."""

    has_lattice: ClassVar[bool] = False
    subsampling = 1

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.clone())
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, batch: Batch) -> LossOutput:
        self.calls += 1
        torch.rand(())  # as dropout would
        centres, curvatures = batch.features.unbind(1)
        return LossOutput((curvatures * (self.weights - centres).square()).sum() / 2, batch.weight)


class Utterances:
    """A dataset of VALUES."""

    def __getitem__(self, unit: Unit) -> Batch:
        size = len(unit.utterances)
        tokens, lengths = torch.ones(size, 1, dtype=torch.int64), torch.ones(size, dtype=torch.int64)
        names = [str(index) for index in unit.utterances]
        features = VALUES[list(unit.utterances)]
        return Batch(names, features, 2 * lengths, tokens, lengths, tokens, float(size), unit.name)


class Penalty(Hook):
    """PENALTY / 2 ||w||^2, once per step."""

    def __init__(self, model: Quadratic) -> None:
        self.model = model
        self.calls = 0

    def on_loss(self, batch: Batch, output: LossOutput, terms: LossTerms) -> None:
        self.calls += 1
        if terms.last:
            terms.add_per_step("penalty", 0.5 * PENALTY * self.model.weights.square().sum())

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]


def make_plan() -> BatchPlan:
    """Four global batches of six units of two utterances."""
    return BatchPlan(
        units=6, unit_utterances=2, max_frames=100, max_cells=100, frame_margin=None, target_margin=0.0,
        frames=[2] * UTTERANCES, target_lengths=[1] * UTTERANCES, utterance_ids=[str(i) for i in range(UTTERANCES)],
        subsampling=1, lengthening=0.0, seed=1,
    )  # fmt: skip


def make_run(world: World, backend: Backend, weights: Tensor) -> Run:
    """A run of Quadratic, as the assembly makes one."""
    model, plan = Quadratic(weights), make_plan()
    module = backend.wrap(model)
    hooks = {"penalty": Penalty(model)}
    objective = Objective(
        module=module, backend=backend, hooks=hooks, device=world.device, precision="fp64", seed=1,
        memory=MemoryGuard(subsampling=1, budgets=plan.budgets), idle=IdleGroups(model, []),
    )  # fmt: skip
    schedule = Constant(reference_batch=None, horizon=Horizon(96, 48, 12))
    dataset: Any = Utterances()
    tokenizer: Any = None  # there are no tokens
    description: Any = None  # nor folders
    return Run(
        model=model, description=description, backend=backend, folder=Path(), seed=1, world=world, plan=plan,
        utterances=[], max_norm=None, learning_rate=LearningRate(torch.optim.SGD(model.parameters(), lr=ALPHA), schedule),
        gradients=LossGradients(model=model, objective=objective, dataset=dataset, world=world), precision="fp64", tokenizer=tokenizer, batches=lambda split, seed: [],
    )  # fmt: skip


def mean_gradient(parts: list[tuple[list[int], Tensor]]) -> Tensor:
    """Of the mean loss over each learner's utterances at its weights, and the mean of their penalties."""
    total = sum(len(utterances) for utterances, _ in parts)
    losses = sum((CURVATURES[utterances] * (w - CENTRES[utterances])).sum(0) / total for utterances, w in parts)
    return losses + PENALTY * torch.stack([w for _, w in parts]).mean(0)


def utterances_of(plan: BatchPlan, batches: list[list[Unit]], rank: int) -> list[int]:
    return [
        index for units in batches for unit in plan.learner_units(units, rank, LEARNERS) for index in unit.utterances
    ]


def test_learners_of_a_quadratic_loss_measure_what_the_definitions_say(run_learners: Callable[..., list[Any]]) -> None:
    weights = torch.randn(LEARNERS, ELEMENTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    progress = Progress(samples=24)

    def learner(world: World) -> tuple[Any, dict[str, float]]:
        backend = SCHEMES["dpsgd"].build(world)
        run = make_run(world, backend, weights[world.rank])
        hook = Diagnostics(every=1, probe_batches=PROBE)
        hook.on_fit_start(run, resumed=False)
        with backend.consensus() as figures:
            hook.on_evaluation(progress, figures)
            gradients = measured_gradients(run, progress, PROBE)
        assert isinstance(run.model, Quadratic)
        assert torch.equal(run.model.weights.detach(), weights[world.rank])
        assert run.model.calls == 0
        assert not run.model.weights.grad.any()
        assert run.gradients.objective.hooks["penalty"].state_dict() == {"calls": 0}
        return gradients, figures

    results = run_learners(LEARNERS, learner)
    assert all(figures == results[0][1] for _, figures in results)
    plan, (gradients, figures) = make_plan(), results[0]
    # The batches are those that the hook draws; everything after that is written out here.
    batch, probe = drawn_batches(plan, 0, keyed_seed(1, "diagnostics", progress.samples), PROBE)
    mean = weights.mean(0)
    own = [utterances_of(plan, [batch], rank) for rank in range(LEARNERS)]
    g_a = mean_gradient([(own[rank], weights[rank]) for rank in range(LEARNERS)])
    g_0 = mean_gradient([(own[rank], mean) for rank in range(LEARNERS)])
    g = mean_gradient([(utterances_of(plan, probe, rank), mean) for rank in range(LEARNERS)])
    torch.testing.assert_close(gradients.at_own_weights, g_a)
    torch.testing.assert_close(gradients.at_mean_weights, g_0)
    torch.testing.assert_close(gradients.of_loss, g)
    # Gradients are linear in w: what their points differ in is multiplied by the curvatures.
    gained = PENALTY * (weights - mean).mean(0) + sum(
        CURVATURES[own[rank]].sum(0) * (weights[rank] - mean) / 12 for rank in range(LEARNERS)
    )
    assert figures["diagnostics/delta_2"] == pytest.approx(ALPHA**2 * gained.square().sum().item())
    assert figures["diagnostics/alpha_e"] == pytest.approx(ALPHA * ((g_a @ g) / (g @ g)).item())
    across = ALPHA * (g_a - (g_a @ g) / (g @ g) * g)
    assert figures["diagnostics/delta"] == pytest.approx(across.square().sum().item())
    across = ALPHA * (g_0 - (g_0 @ g) / (g @ g) * g)
    assert figures["diagnostics/delta_s"] == pytest.approx(across.square().sum().item())
    squares = (weights - mean).square().sum().item()
    assert figures["diagnostics/sigma_w2"] == pytest.approx(squares / LEARNERS**2)


def test_with_equal_weights_the_learners_distance_has_no_effect(
    run_learners: Callable[..., list[Any]],
) -> None:
    def learner(world: World) -> dict[str, float]:
        backend = AllReduce(bucket_mb=1, world=world)
        run = make_run(world, backend, torch.ones(ELEMENTS, dtype=torch.float64))
        hook = Diagnostics(every=1, probe_batches=PROBE)
        hook.on_fit_start(run, resumed=False)
        with backend.consensus() as figures:
            hook.on_evaluation(Progress(), figures)
        assert figures["diagnostics/delta_2"] == figures["diagnostics/sigma_w2"] == 0
        return figures

    several, (alone,) = run_learners(3, learner), run_learners(1, learner)
    assert alone["diagnostics/delta_s"] == alone["diagnostics/delta"] > 0
    for figures in several:
        assert figures == pytest.approx(alone), "the same batches, whatever the number of learners"


def test_batches_differ_from_each_other_and_between_measurements() -> None:
    plan = make_plan()
    batch, probe = drawn_batches(plan, 0, 5, PROBE)
    chosen = [batch, *probe]
    assert len(probe) == PROBE
    assert len({index for units in chosen for unit in units for index in unit.utterances}) == 12 * (1 + PROBE)
    assert drawn_batches(plan, 0, 5, PROBE) == (batch, probe)
    assert {drawn_batches(plan, 0, seed, PROBE)[0][0].batch for seed in range(40)} == {0, 1, 2, 3}


def test_an_epoch_must_have_a_batch_more_than_the_probe(alone: World) -> None:
    run = make_run(alone, SCHEMES["dpsgd"].build(alone), torch.ones(ELEMENTS))
    with pytest.raises(TooFewBatchesError, match=r"hooks\.diagnostics\.probe_batches=4 must be below the 4 global"):
        Diagnostics(every=1, probe_batches=4).on_fit_start(run, resumed=False)


def test_every_counts_evaluations_also_across_a_resume(run_learners: Callable[..., list[Any]]) -> None:
    def learner(world: World) -> list[bool]:
        backend = AllReduce(bucket_mb=1, world=world)
        run = make_run(world, backend, torch.ones(ELEMENTS, dtype=torch.float64))
        taken, state = [], Diagnostics(every=3, probe_batches=1).state_dict()
        for _ in range(7):
            hook = Diagnostics(every=3, probe_batches=1)
            hook.load_state_dict(state)
            hook.on_fit_start(run, resumed=True)
            with backend.consensus() as figures:
                hook.on_evaluation(Progress(), figures)
            taken.append(bool(figures))
            state = hook.state_dict()
        return taken

    assert run_learners(1, learner) == [[False, False, True, False, False, True, False]]
