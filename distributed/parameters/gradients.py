"""Norm and clipping of one learner's gradients, the same in every scheme."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from distributed.backend import GradientReport


def clip_gradients(groups: Sequence[Mapping[str, Any]], max_norm: float | None) -> GradientReport:
    """Scale the gradients of an optimizer's groups down to the 2-norm ``max_norm``; None only measures.

    Groups with ``clip=False`` neither count towards the norm that is compared with ``max_norm`` nor are they scaled;
    the reported norm and finiteness are those of all gradients. Non-finite gradients are left as they are. A norm that
    overflows its dtype counts as non-finite.
    """
    clipping = [p for group in groups if group.get("clip", True) for p in group["params"]]
    others = [p for group in groups if not group.get("clip", True) for p in group["params"]]
    clipping_norm = get_total_norm([p.grad for p in clipping if p.grad is not None])
    norm = math.hypot(clipping_norm.item(), _norm_of(others))
    finite = math.isfinite(norm)
    clipped = finite and max_norm is not None and clipping_norm.item() > max_norm
    if clipped and max_norm is not None:
        clip_grads_with_norm_(clipping, max_norm, clipping_norm)
    return GradientReport(norm, clipped, finite)


def _norm_of(parameters: Sequence[Tensor]) -> float:
    return get_total_norm([p.grad for p in parameters if p.grad is not None]).item()
