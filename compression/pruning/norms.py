"""Layer normalisation of a masked vector: statistics over the entries that are kept, as in the model without the others."""

import torch
from torch import Tensor


def masked_layer_norm(x_D: Tensor, kept_D: Tensor, weight_D: Tensor, bias_D: Tensor, epsilon: float) -> Tensor:
    """Normalise the entries (..., D) that are kept, and give 0 for the others; in at least fp32, returned as ``x_D`` came.

    Args:
        kept_D: 1 for entries that are kept, 0 for others.
    """
    wide_D = x_D.to(torch.promote_types(x_D.dtype, torch.float32))
    kept_D = kept_D.to(wide_D.dtype)
    count = kept_D.sum().clamp(min=1)
    centred_D = (wide_D - (wide_D * kept_D).sum(-1, keepdim=True) / count) * kept_D
    variance = centred_D.square().sum(-1, keepdim=True) / count
    normed_D = centred_D * (variance + epsilon).rsqrt()
    return torch.addcmul(bias_D * kept_D, normed_D, weight_D).to(x_D.dtype)
