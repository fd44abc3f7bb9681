"""PowerSGD: the mean gradient of every matrix at low rank, by one step of power iteration, with error feedback.

    p_i = m_i + g_i                       (n, m) per matrix
    P   = orthonormalised sum_i p_i Q     (n, r)      all-reduced together with all that is not compressed
    Q   = (1/L) sum_i p_i' P              (m, r)      all-reduced; where the next step's iteration begins
    g   = P Q',    m_i <- p_i - g         sum over steps of (mean g_i - g) = mean m_i

Source: Vogels et al. 2019, arXiv 1905.13727, Algorithms 1 and 2. With one bucket this is torch's ``powerSGD_hook``,
whose second bucket aborts on gloo; here all matrices travel in two messages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distributed.backend import State
from distributed.keyed import keyed_seed
from distributed.learners.world import World
from distributed.ranges import Count, Natural, Positive
from distributed.sparse.compressed import CompressedBackend
from distributed.sparse.error_feedback import restore_memory


def worth_compressing(shape: torch.Size, rank: int, min_rate: float) -> bool:
    """Whether P and Q together are more than ``min_rate`` times smaller than the matrix (n, m)."""
    rows, columns = matrix_shape(shape)
    return len(shape) >= 2 and (rows + columns) * rank * min_rate < rows * columns


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """(n, m) of a parameter as a matrix: its first dimension, and all others together."""
    return (shape[0], shape[1:].numel()) if len(shape) else (1, 1)


def orthonormal(matrix: Tensor) -> Tensor:
    """An orthonormal basis (n, r) of what the columns of ``matrix`` span."""
    return torch.linalg.qr(matrix).Q


class PowerSgd(CompressedBackend):
    """Matrices travel as factors of rank ``rank`` where that is ``min_rate`` times smaller, all else whole.

    Whole, too, are parameters of optimizer groups with ``compress=False``; frozen ones are not sent. What a memory owes of a
    parameter that is no longer compressed, as after a resume with other settings, is sent at once.
    """

    def __init__(
        self,
        *,
        rank: Count,
        min_rate: Positive,
        warmup_steps: Natural,
        refresh_moments: Count | None,
        refresh_batches: Count,
        seed: int,
        world: World,
    ) -> None:
        super().__init__(
            warmup_steps=warmup_steps, refresh_moments=refresh_moments, refresh_batches=refresh_batches, world=world
        )
        self.rank = rank
        self.min_rate = min_rate
        self.seed = seed
        self.memory: list[Tensor] = []
        self.factors: dict[str, Tensor] = {}  # Q of every compressed parameter, the same on all learners

    def wrap(self, model: nn.Module) -> nn.Module:
        super().wrap(model)
        self.memory = [torch.zeros_like(gradient) for gradient in self.flat.flat_grad]
        self.factors = {
            name: self._initial_factor(name, parameter)
            for name, parameter in model.named_parameters()
            if worth_compressing(parameter.shape, self.rank, self.min_rate)
        }
        return model

    def attach(self, optimizer: Optimizer) -> None:
        super().attach(optimizer)
        apart = {id(parameter) for parameter in self.uncompressed}
        for name, parameter in self.model.named_parameters():
            if id(parameter) in apart:
                self.factors.pop(name, None)

    def _initial_factor(self, name: str, parameter: Tensor) -> Tensor:
        rows, columns = matrix_shape(parameter.shape)
        generator = torch.Generator().manual_seed(keyed_seed(self.seed, "powersgd", name))
        return torch.randn(columns, min(self.rank, rows, columns), generator=generator).to(parameter)

    @torch.no_grad()
    def _reduce(self, usable: bool) -> bool:
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        views = self.flat.named_views([m + g for m, g in zip(self.memory, self.flat.flat_grad, strict=True)])
        p = {name: value for name, value in views.items() if name not in frozen}
        matrices = {name: p[name].view(matrix_shape(p[name].shape)) for name in self.factors if name in p}
        rest = {name: value for name, value in p.items() if name not in matrices}
        left = {name: matrix @ orthonormal(self.factors[name]) for name, matrix in matrices.items()}
        means = self._mean(rest | left, usable, sum(value.numel() for value in rest.values()))
        if means is None:
            return False
        left = {name: orthonormal(means[name]) for name in left}
        right = self._mean({name: matrix.T @ left[name] for name, matrix in matrices.items()}, usable, 0)
        if right is None:
            return False
        gradient = self.flat.named_views(self.flat.flat_grad)
        memory = self.flat.named_views(self.memory)
        for name in rest:
            gradient[name].copy_(means[name])
            memory[name].zero_()
        for name, matrix in matrices.items():
            approximation = left[name] @ right[name].T
            gradient[name].copy_(approximation.view_as(gradient[name]))
            memory[name].copy_(matrix.sub_(approximation).view_as(memory[name]))
        # A zero factor spans nothing to iterate on: the old one is kept, on all learners alike since means are equal.
        self.factors |= {name: torch.where(q.any(), q, self.factors[name]) for name, q in right.items()}
        return True

    def _mean(
        self, tensors: Mapping[str, Tensor], usable: bool, uncompressed_elements: int
    ) -> dict[str, Tensor] | None:
        """Means of ``tensors`` over learners, sent as one message of their widest dtype; None if not finite."""
        if not tensors:
            return {}
        message = torch.cat([tensor.flatten() for tensor in tensors.values()])
        mean = self._average(message, usable, uncompressed_elements)
        if mean is None:
            return None
        pieces = mean.split([tensor.numel() for tensor in tensors.values()])
        return {
            name: piece.view_as(tensor).to(tensor)
            for (name, tensor), piece in zip(tensors.items(), pieces, strict=True)
        }

    def state_dict(self) -> State:
        return super().state_dict() | {
            "memory": self.flat.named_views(self.memory),
            "factors": dict(self.factors),
        }

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
        super().load_state_dict(states, rank, world_size)
        restore_memory(self.flat.named_views(self.memory), [state["memory"] for state in states], rank, world_size)
        # Factors of parameters that were not compressed, or at another rank, start again from the initial ones.
        for name, old in states[0]["factors"].items():
            if name in self.factors and self.factors[name].shape == old.shape:
                self.factors[name] = old.to(self.factors[name])
