"""A module as a function of flat weights, and gradients of many learners at once.

The layout is that of the real backends (distributed/parameters/flat_parameters.py), padding included, so that noise
drawn for a flat buffer and entries selected in one are the same here. A loss is any function

    loss(weights_P, batch) -> scalar        weights_P: shape (P,); the mean over a learner's batch

and needs no module at all. Shapes: L learners, P elements of the flat weights.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from distributed.errors import UsageError
from distributed.parameters.flat_parameters import FlatParameters
from distributed.sparse.segments import Segment, by_rate, segments_of

Loss = Callable[[Tensor, Any], Tensor]
Gradients = Callable[[Loss, Tensor, Sequence[Any]], tuple[Tensor, Tensor]]  # -> losses (L,), gradients (L, P)
Pieces = Callable[[Tensor], list[Tensor]]  # the parameters, as views of flat weights or gradients


class FlatModel:
    """A copy of ``module`` with all parameters in one flat vector.

    ``criterion(model, batch)`` calls ``model`` like the module and returns a scalar. ``rates`` lays parameters out as
    schemes of sparse gradients do, by the rate of each name; ``segments`` are the stretches of one rate.
    """

    def __init__(
        self,
        module: nn.Module,
        criterion: Callable[[Callable[..., Any], Any], Tensor],
        rates: Mapping[str, int] | None = None,
    ) -> None:
        _check(module)
        self._module = copy.deepcopy(module)
        self._criterion = criterion
        given = dict.fromkeys(dict(self._module.named_parameters()), 1) if rates is None else rates
        flat = FlatParameters(self._module, gradients=False, order=by_rate(given, {}))
        if len(flat.flat) > 1:
            raise UsageError("parameters of several dtypes or devices do not fit into one vector; use model.to(dtype)")
        self.start_P = flat.flat[0].clone()
        self.segments: list[Segment] = segments_of(flat, given, {})
        self._shapes = {name: view.shape for name, view in flat.named_views(flat.flat).items()}
        starts = [int(view.storage_offset()) for view in flat.named_views(flat.flat).values()]
        self._sizes = [end - start for start, end in pairwise([*starts, len(self.start_P)])]  # with their padding

    def views(self, weights_P: Tensor) -> dict[str, Tensor]:
        """Every parameter by name, as a view of flat weights."""
        parts = weights_P.split(self._sizes)  # one operation, whose gradient is one concatenation
        return {
            name: part[: shape.numel()].view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def pieces(self, weights_P: Tensor) -> list[Tensor]:
        """The parameters for an optimizer that treats each by itself, as LAMB does."""
        return list(self.views(weights_P).values())

    def loss(self, weights_P: Tensor, batch: Any) -> Tensor:
        """The criterion at flat weights."""
        views = self.views(weights_P)
        return self._criterion(lambda *inputs: functional_call(self._module, views, inputs), batch)


def _check(module: nn.Module) -> None:
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise UsageError(f"parameter {frozen[0]!r} is frozen: the simulator trains all parameters; take it out")
    for name, each in module.named_modules():
        if getattr(each, "track_running_stats", False):
            raise UsageError(
                f"module {name!r} keeps running statistics, which learners of one process would share; "
                "use a normalisation without them"
            )


def whole(weights_P: Tensor) -> list[Tensor]:
    """All weights as one parameter: enough for optimizers that treat every element alike, as SGD and AdamW do."""
    return [weights_P]


def gradients_by_loop(loss: Loss, points_LP: Tensor, batches: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Losses (L,) and gradients (L, P) of each learner at its own point, one learner after the other."""
    losses, gradients_LP = [], torch.empty_like(points_LP)
    for point_P, batch, gradient_P in zip(points_LP, batches, gradients_LP, strict=True):
        leaf_P = point_P.detach().requires_grad_()
        value = loss(leaf_P, batch)
        gradient_P.copy_(torch.autograd.grad(value, leaf_P)[0])
        losses.append(value.detach())
    return torch.stack(losses), gradients_LP


def gradients_by_vmap(loss: Loss, points_LP: Tensor, batches: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The same for all learners in one call, where the loss can be vectorised and batches are tuples of equal shapes."""
    stacked = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
    gradients_LP, losses_L = vmap(grad_and_value(loss))(points_LP, stacked)
    return losses_L, gradients_LP
