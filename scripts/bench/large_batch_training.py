"""Training of scripts/bench/large_batch.py: the networks and their schedules, by simulated learners and by real ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distributed.errors import UsageError
from distributed.gossip.diagnostics import weight_variance
from distributed.gossip.topology import make_topology
from distributed.simulate.flat_model import FlatModel, gradients_by_vmap
from distributed.simulate.learners import step_gradients
from distributed.simulate.lockstep import Lockstep
from distributed.simulate.schemes import AllReduce, Dpsgd, LockstepScheme, NoisyAllReduce
from scripts.bench.kept import Kept
from scripts.bench.large_batch_learner import train_real
from scripts.bench.large_batch_networks import DeepLstm, perceptron
from scripts.bench.learners import run_learners
from scripts.bench.spoken_digits import Digits, criterion, error_of

WARM_UP, HALF = 20, 0.5  # steps; fraction of the run after which the rate falls
MEASURED_EVERY = 5  # steps, of the curves
SSGD, NOISE, COMPLETE = "SSGD", "SSGD with noise", "DPSGD, complete"
WAYS: Mapping[str, Callable[[int, float], LockstepScheme]] = {
    SSGD: lambda seed, sigma: AllReduce(),
    NOISE: lambda seed, sigma: NoisyAllReduce(sigma, seed),
    COMPLETE: lambda seed, sigma: Dpsgd(make_topology("complete", seed)),
    "DPSGD, random ring": lambda seed, sigma: Dpsgd(make_topology("random_ring", seed)),
    "DPSGD, ring": lambda seed, sigma: Dpsgd(make_topology("ring", seed)),
    "DPSGD, random pairs": lambda seed, sigma: Dpsgd(make_topology("random_pairwise", seed)),
}
REAL: Mapping[str, tuple[str, dict[str, str]]] = {
    SSGD: ("allreduce", {}),
    COMPLETE: ("dpsgd", {"topology": "complete"}),
}

Curve = list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Case:
    """A network, and how it is trained."""

    name: str
    network: Callable[[], nn.Module]
    learners: int
    batch: int  # of all learners together
    steps: int
    rates: Sequence[float]

    def begun(self, seed: int) -> nn.Module:
        """The network at the weights of a seed."""
        torch.manual_seed(seed)
        return self.network()

    def rate_at(self, step: int, lr: float) -> float:
        """The learning rate of a step."""
        return lr * min(1.0, (step + 1) / WARM_UP, (self.steps - step) / (HALF * self.steps))

    def batches(self, digits: Digits, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The global batch of every step, drawn without replacement."""
        generator = torch.Generator().manual_seed(seed)
        inputs, labels = digits.train
        for _ in range(self.steps):
            drawn = torch.randperm(len(labels), generator=generator)[: self.batch]
            yield inputs[drawn], labels[drawn]

    def shares(self, batch: tuple[Tensor, Tensor]) -> list[tuple[Tensor, ...]]:
        """Equal parts, one for each learner."""
        return list(zip(*(part.chunk(self.learners) for part in batch), strict=True))


LSTM = Case("lstm", DeepLstm, learners=16, batch=1024, steps=120, rates=(3.4, 4.7, 6.7, 8.0, 9.5, 11.3))
PERCEPTRON = Case("perceptron", perceptron, learners=5, batch=2000, steps=120, rates=(0.35, 0.5, 0.6, 0.7, 0.85, 1.0))


class Trainings:
    """Trains learners; what has been found before is read.

    Raises:
        UsageError: there are fewer recordings than a batch needs, or learners cannot share them equally.
    """

    def __init__(self, digits: Digits, kept_in: Path | None, cases: Sequence[Case]) -> None:
        recordings = len(digits.train[1])
        for case in cases:
            if recordings < case.batch or recordings % case.learners or case.batch % case.learners:
                raise UsageError(
                    f"{recordings} recordings and batches of {case.batch} for {case.learners} learners: batches may not be larger than the "
                    "corpus, and learners need equal shares of both; take the whole corpus"
                )
        made_of = {case.name: [case.learners, case.batch, case.steps] for case in cases}
        self.digits, self.kept = digits, Kept(kept_in, {"recordings": recordings, **made_of})

    def error(self, case: Case, way: str, lr: float, seed: int, sigma: float = 0.0) -> float:
        """Share of wrong held-out recordings of the mean weights; ``sigma`` is the noise of SSGD with noise."""
        named = f"{way}, sigma {sigma:g}" if way == NOISE else way
        key = f"{case.name}, {named}, lr {lr:g}, seed {seed}"
        return self._error(case, key, lambda: self.weights(case, way, lr, seed, sigma))

    def real_error(self, case: Case, way: str, lr: float, seed: int) -> float:
        """The same of as many real processes, on the same batches."""

        def train() -> Tensor:
            rates = [case.rate_at(step, lr) for step in range(case.steps)]
            settings = (case.begun(seed), *REAL[way], rates, list(case.batches(self.digits, seed)))
            weights_P: Tensor = run_learners(case.learners, train_real, *settings)[0]
            return weights_P

        return self._error(case, f"{case.name}, {way}, lr {lr:g}, seed {seed}, real", train)

    def curve(self, case: Case, way: str, lr: float, seed: int, sigma: float) -> Curve:
        """Loss, effective rate, noise and variance of the weights on the way."""

        def train() -> dict[str, Any]:
            rows: Curve = []
            self.weights(case, way, lr, seed, sigma, rows)
            return {"rows": rows}

        found: Curve = self.kept.of(f"{case.name}, {way}, sigma {sigma:g}, lr {lr:g}, seed {seed}, curve", train)[
            "rows"
        ]
        return found

    def _error(self, case: Case, key: str, train: Callable[[], Tensor]) -> float:
        def find() -> dict[str, float]:
            weights_P, module = train(), case.network()
            return {"error": error_of(module, FlatModel(module, criterion), weights_P, self.digits)}

        error: float = self.kept.of(key, find)["error"]
        print(f"{key}: {error:.1%}", flush=True)
        return error

    def weights(
        self, case: Case, way: str, lr: float, seed: int, sigma: float = 0.0, curve: Curve | None = None
    ) -> Tensor:
        """Flat weights after the last step, the mean over simulated learners; ``curve`` takes what is measured on the way."""
        model = FlatModel(case.begun(seed), criterion)
        lockstep = Lockstep(
            scheme=WAYS[way](seed, sigma),
            learners=case.learners,
            loss=model.loss,
            start_P=model.start_P,
            make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr),
            gradients=gradients_by_vmap,
        )
        for step, batch in enumerate(case.batches(self.digits, seed)):
            alpha, shares = case.rate_at(step, lr), case.shares(batch)
            lockstep.copies.set_rate(alpha)
            if curve is not None and step % MEASURED_EVERY == 0:
                curve.append({"step": step} | self._measured(case, model, lockstep, shares, alpha))
            lockstep.step(shares)
        return lockstep.copies.mean

    def _measured(
        self, case: Case, model: FlatModel, lockstep: Lockstep, shares: list[tuple[Tensor, ...]], alpha: float
    ) -> dict[str, float]:
        """What a step on these batches will do, by arXiv 2112.01433, section 2.

        g is the gradient of the whole training loss, the batch's own recordings included: no estimate of it, so that nothing is biased.
        """
        copies = lockstep.copies
        points_LP = lockstep.scheme.points(copies.weights_CP, case.learners, lockstep.steps)
        losses_L, gradients_LP = gradients_by_vmap(model.loss, points_LP, shares)
        whole = case.shares(self.digits.train)
        taken = step_gradients(model.loss, copies, gradients_LP, shares, whole, gradients_by_vmap).diagnostics(alpha)
        found = {key.rpartition("/")[2]: value for key, value in taken.items()}
        variance = weight_variance(copies.consensus_distance, case.learners)
        return {"loss": float(losses_L.mean()), "alpha": alpha, **found, "sigma_w2": variance}
