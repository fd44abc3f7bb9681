"""The weights, gradients and optimizers of simulated learners, stacked; how far learners are apart.

Shapes: C copies of the weights (learners that hold the same weights share one), P elements.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distributed.backend import GradientReport
from distributed.gossip.diagnostics import StepGradients
from distributed.parameters.gradients import clip_gradients
from distributed.simulate.flat_model import Gradients, Loss, Pieces, gradients_by_loop, whole

MakeOptimizer = Callable[[Sequence[nn.Parameter]], Optimizer]


class Copies:
    """Stacked weights, each copy with an optimizer of its own.

    ``pieces`` cuts flat weights into the parameters that optimizers see.
    """

    def __init__(self, start_P: Tensor, copies: int, make_optimizer: MakeOptimizer, pieces: Pieces = whole) -> None:
        self.weights_CP = start_P.detach().repeat(copies, 1)
        self.gradients_CP = torch.zeros_like(self.weights_CP)
        rows = zip(self.weights_CP, self.gradients_CP, strict=True)
        self.optimizers = [make_optimizer(_parameters(*row, pieces)) for row in rows]

    @property
    def mean(self) -> Tensor:
        """The mean weights, which are evaluated."""
        return self.weights_CP.mean(0)

    @property
    def consensus_distance(self) -> float:
        """Mean over copies of ||w_i - mean||^2, as ``consensus/distance`` of a run."""
        away_CP = (self.weights_CP - self.mean).double()
        return float(away_CP.square().sum(1).mean())

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of all optimizers."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def update(self, copy: int, max_norm: float | None) -> GradientReport:
        """Clip one copy's gradient and take its optimizer's step, unless the gradient is not finite."""
        report = clip_gradients(self.optimizers[copy].param_groups, max_norm)
        if report.finite:
            self.optimizers[copy].step()
        return report


def step_gradients(
    loss: Loss,
    copies: Copies,
    gradients_LP: Tensor,
    batches: Sequence[object],
    large_batches: Sequence[object],
    gradients: Gradients = gradients_by_loop,
) -> StepGradients:
    """g_a, g_0 and g of arXiv 2112.01433, section 2, at the present weights (distributed/gossip/diagnostics.py).

    ``gradients_LP``: those of ``batches`` at the learners' own weights; ``large_batches``: independent of them.
    """
    mean_P = copies.mean
    own = gradients(loss, mean_P.expand(len(batches), -1), batches)[1]
    independent = gradients(loss, mean_P.expand(len(large_batches), -1), large_batches)[1]
    return StepGradients(gradients_LP.mean(0), own.mean(0), independent.mean(0))


def _parameters(weights_P: Tensor, gradient_P: Tensor, pieces: Pieces) -> list[nn.Parameter]:
    """Parameters that lie in flat weights, with gradients that lie in flat gradients."""
    parameters = [nn.Parameter(piece) for piece in pieces(weights_P)]
    for parameter, gradient in zip(parameters, pieces(gradient_P), strict=True):
        parameter.grad = gradient
    return parameters
