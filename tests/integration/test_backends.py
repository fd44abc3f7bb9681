"""Backends in real processes: this file is also the script that every learner runs.

With four learners DistributedDataParallel's first backward differs in the last bits from later ones, unless it was
rehearsed; so this is where bitwise resumption can fail.
"""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.base import checksum
from distributed.learners.environment import place
from distributed.learners.launch import start, stop
from distributed.learners.world import World
from tests.processes import Forked, Learners, listening
from tests.schemes import SCHEMES, words

STEPS = 6
RESUME_AT = 3

LEARNERS = 4

SMALL = {"bucket_mb": 0.002, "rate": 16, "sigma": 0.01}  # several buckets
CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    word: (word, {}) for word in words(lambda each: each.communicates_every_step)
} | {  # what else can differ between a run and one that is resumed
    "scalecom-rates": ("scalecom", {"rates": [("2.*", 4)], "beta": 0.3, "warmup_steps": 1}),
    "scalecom-refreshed": ("scalecom", {"warmup_steps": 2, "refresh_moments": 4, "refresh_batches": 2}),
    "scalecom-bf16": ("scalecom", {"values": "bfloat16"}),
    "dpsgd-moments": ("dpsgd", {"topology": "random_pairwise", "mix_moments": True}),
    "delay_by_one-moments": ("delay_by_one", {"mix_moments": True}),
    "hierarchical-moments": ("hierarchical", {"topology": "exponential", "mix_moments": True}),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(24, 24), nn.Tanh())))


def unit(step: int, rank: int, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * step + 10 * rank + index)
    return torch.randn(5, 24, generator=generator)


class Run:
    """One learner's training run, fresh or from the state that an earlier one left."""

    def __init__(self, case: str, world: World, saved: dict[str, Any] | None = None) -> None:
        word, changes = CASES[case]
        self.world, self.backend, self.model = world, SCHEMES[word].build(world, **SMALL | changes), network()
        self.wrapped = self.backend.wrap(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.backend.attach(self.optimizer)
        self.losses: list[float] = []
        if saved is not None:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.backend.load_state_dict(saved["backend"], world.rank, world.size)
        self.backend.synchronise(resumed=saved is not None, rehearse=self.rehearse)

    def rehearse(self) -> None:
        self.wrapped(unit(0, 0, 0)).square().sum().backward()

    def train(self, steps: Sequence[int]) -> None:
        for step in steps:
            divisor = self.backend.begin_step(10.0, 10.0)
            with self.backend.accumulating():
                (self.wrapped(unit(step, self.world.rank, 0)).square().sum() / divisor).backward()
            loss = self.wrapped(unit(step, self.world.rank, 1)).square().sum() / divisor
            loss.backward()
            report = self.backend.reduce_gradients(0.5)
            with self.backend.updating(apply=report.finite):
                self.optimizer.step()
            self.backend.zero_grad()
            self.losses.append(loss.item())

    def state(self) -> dict[str, Any]:
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimizer": torch.load(self._saved_optimizer(), weights_only=True),
            "backend": [copy.deepcopy(self.backend.state_dict())] * self.world.size,
        }

    def _saved_optimizer(self) -> Path:
        path = Path(os.environ["OUTPUT"]) / f"optimizer-{self.world.rank}.pt"
        torch.save(self.optimizer.state_dict(), path)
        return path


def resumes_bitwise(case: str, world: World) -> dict[str, Any]:
    """Losses and weights of an uninterrupted run and of one that was cut in two."""
    whole = Run(case, world)
    whole.train(range(RESUME_AT))
    saved = whole.state()
    whole.train(range(RESUME_AT, STEPS))
    second = Run(case, world, saved)
    second.train(range(RESUME_AT, STEPS))
    result = {
        "whole": whole.losses[RESUME_AT:],
        "resumed": second.losses,
        "whole_weights": checksum(whole.backend.flat.flat),
        "resumed_weights": checksum(second.backend.flat.flat),
    }
    with second.backend.consensus():
        result["consensus_weights"] = checksum(second.backend.flat.flat)
    result["restored_weights"] = checksum(second.backend.flat.flat)
    result["listening"] = listening()
    for run in (whole, second):
        run.backend.close()
    return result


def main() -> None:
    """What each learner does."""
    world = start(place(), join_seconds=90, timeout_seconds=90, patience_seconds=None, device="cpu", threads=1)
    results: dict[str, Any] = {case: resumes_bitwise(case, world) for case in CASES}
    (Path(os.environ["OUTPUT"]) / f"{world.rank}.json").write_text(json.dumps(results))
    stop(world)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What four learners report."""
    output = tmp_path_factory.mktemp("learners")
    learners = Learners(partial(Forked, [__file__], output, OUTPUT=str(output)), LEARNERS)
    printed, _ = learners.communicate(timeout=240)
    assert learners.returncode == 0, printed[-4000:]
    return [json.loads((output / f"{rank}.json").read_text()) for rank in range(LEARNERS)]


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(results: list[dict[str, Any]], case: str):
    for each in results:
        assert each[case]["resumed"] == each[case]["whole"]
        assert each[case]["resumed_weights"] == each[case]["whole_weights"]


@pytest.mark.parametrize("case", CASES)
def test_learners_hold_the_same_weights_where_the_scheme_says_so(results: list[dict[str, Any]], case: str):
    word, _ = CASES[case]
    assert len({each[case]["whole_weights"] for each in results}) == SCHEMES[word].different_weights(LEARNERS)


@pytest.mark.parametrize("case", CASES)
def test_consensus_is_the_same_everywhere_and_leaves_no_trace(results: list[dict[str, Any]], case: str):
    assert len({each[case]["consensus_weights"] for each in results}) == 1
    assert all(each[case]["restored_weights"] == each[case]["resumed_weights"] for each in results)


@pytest.mark.parametrize("case", CASES)
def test_learners_on_one_host_can_be_reached_on_the_loopback_alone(results: list[dict[str, Any]], case: str):
    for each in results:
        addresses = {address for address, _ in each[case]["listening"]}
        assert addresses
        assert addresses <= {"127.0.0.1", "::1"}


if __name__ == "__main__":
    main()
