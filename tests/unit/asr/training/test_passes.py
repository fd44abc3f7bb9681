"""Several passes over a unit in one step: their gradients add up under every backend, and the complete one comes last."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional

from asr.runs.metrics import read_rows
from asr.runs.progress import Progress
from asr.training.hook import Hook, Run
from asr.training.passes import ForwardPass
from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World
from tests.schemes import SCHEMES

EXACT = (
    "model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0", "hooks=[]",
    "trainer.max_steps=3", "trainer.precision=fp64", "trainer.memory_probe=false", "evaluation.sets=[]",
)  # fmt: skip
Train = Callable[..., list[dict[str, Tensor]]]


class Twice(Hook):
    """Two passes that together weigh as much as one."""

    def passes(self, progress: Progress) -> Sequence[ForwardPass]:
        return ForwardPass(name="first", weight=0.25), ForwardPass(name="second", weight=0.75)


class Detached(Hook):
    """After a whole pass one in which a layer's parameters take no part."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.seen: list[str] = []
        self.model: Any = None

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        self.model = run.model

    def passes(self, progress: Progress) -> Sequence[ForwardPass]:
        part = ForwardPass(name="part", context=self.detached, complete=False)
        return (ForwardPass(name="whole"), part) if self.whole else (part,)

    @contextmanager
    def detached(self) -> Iterator[None]:
        layer: nn.Linear = self.model.joiner.project_predictor
        layer.forward = lambda x: functional.linear(x, layer.weight.detach(), layer.bias.detach())
        try:
            yield
        finally:
            del layer.forward

    def on_loss(self, batch: Any, output: Any, terms: Any) -> None:
        self.seen.append(terms.pass_name)


@pytest.fixture
def train(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[Any]],
    tmp_path: Path,
) -> Train:
    """``train(size, options, hooks, name)``: weights of every learner after three steps."""

    def run(size: int, options: Sequence[str], hooks: Callable[[], dict[str, Hook]], name: str) -> Any:
        config = small_config(*options, *EXACT)

        def learner(world: World) -> dict[str, Tensor]:
            trainer = make_trainer(config, tmp_path / name, world, hooks())
            generator = torch.Generator().manual_seed(1)  # threads share the global one, which initial weights are from
            for parameter in trainer.parts.run.model.parameters():
                parameter.data.normal_(0.0, 0.2, generator=generator)
            trainer.fit(None)
            trainer.parts.recorder.close()
            return {key: value.clone() for key, value in trainer.parts.run.model.state_dict().items()}

        return run_learners(size, learner)

    return run


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_passes_give_the_sum_of_their_gradients(scheme: str, train: Train, tmp_path: Path) -> None:
    size = 2 if SCHEMES[scheme].communicates_every_step else 1  # asynchronous learners make no two equal runs
    options = SCHEMES[scheme].overrides(size, group_size=size)
    once = train(size, options, dict, "once")
    twice = train(size, options, lambda: {"twice": Twice()}, "twice")
    tolerance = 1e-3 if scheme == "half_allreduce" else 1e-9  # a sum on the edge may be rounded to another half
    for one, other in zip(once, twice, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=tolerance, atol=tolerance)
    rows = [
        [row for row in read_rows(tmp_path / run / "metrics" / "0.jsonl") if "train/loss" in row]
        for run in ("once", "twice")
    ]
    for ordinary, both in zip(*rows, strict=True):
        assert both["train/loss"] == pytest.approx(ordinary["train/loss"], rel=1e-6)
        assert both["train/first/rnnt"] == pytest.approx(ordinary["train/rnnt"], rel=1e-6)
        assert both["train/second/rnnt"] == pytest.approx(ordinary["train/rnnt"], rel=1e-6)
        assert both["memory/split_units"] == 0


def test_under_asynchronous_gossip_every_pass_of_every_learner_is_made(train: Train) -> None:
    for weights in train(2, ["backend=adpsgd"], lambda: {"twice": Twice()}, "twice"):
        assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("scheme", ["allreduce", "hierarchical", "scalecom"])
def test_a_pass_that_leaves_parameters_out_is_not_the_one_that_is_averaged(scheme: str, train: Train) -> None:
    found: list[Detached] = []

    def hooks() -> dict[str, Hook]:
        found.append(Detached(whole=True))
        return {"detached": found[-1]}

    # Of ScaleCom every entry is sent: what two learners then agree on is the mean gradient.
    options = SCHEMES[scheme].overrides(2, group_size=2, rate=1)
    together = train(2, options, hooks, "together")
    assert all(
        each.seen[0::2] == ["part"] * (len(each.seen) // 2) and set(each.seen[1::2]) == {"whole"} for each in found
    )
    (alone,) = train(1, ["backend=single"], hooks, "alone")
    for weights in together:
        for name, value in alone.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-9)


def test_where_the_last_backward_is_averaged_one_pass_must_be_complete(train: Train) -> None:
    hooks: Callable[[], dict[str, Hook]] = lambda: {"detached": Detached(whole=False)}  # noqa: E731
    assert train(1, ["backend=single"], hooks, "single")
    with pytest.raises(
        UsageError, match=r"^hooks\.detached: none of the passes \['part'\] uses every parameter, but this"
    ):
        train(2, ["backend=allreduce"], hooks, "allreduce")


def test_two_hooks_cannot_both_say_which_passes_a_step_makes(train: Train) -> None:
    with pytest.raises(
        UsageError, match=r"^hooks=\[a,b\]: each decides which passes a step makes; leave all but one out$"
    ):
        train(1, ["backend=single"], lambda: {"a": Twice(), "b": Twice()}, "both")


@pytest.mark.parametrize("passes", [(), (ForwardPass(), ForwardPass())])
def test_passes_have_names_of_their_own(passes: tuple[ForwardPass, ...], train: Train) -> None:
    hook = Hook()
    hook.passes = lambda progress: passes
    with pytest.raises(UsageError, match=r"^hooks\.some: a step makes at least one pass, each with a name of its own"):
        train(1, ["backend=single"], lambda: {"some": hook}, "some")
