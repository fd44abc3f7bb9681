"""Fingerprints of content: what lies under the same name may have become something else since.

A run that went on, or was repeated, has other weights in the same folder. Whoever keeps something that was made with them
(lists, figures, a checkpoint) keeps a fingerprint of these beside it, to notice.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

DIGITS = 15  # of SHA-256 in hexadecimal: learners compare 64-bit integers, with a sign


def fingerprint(text: str, tensors: Iterable[Tensor]) -> int:
    """A number that differs whenever the text, or the values, type, shape or order of the tensors do; below 2^60."""
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(f"\n{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return int(digest.hexdigest()[:DIGITS], 16)


def weights_fingerprint(model: nn.Module) -> int:
    """A number that differs whenever the weights of two models do, be they of one checkpoint or a mean of several."""
    weights = model.state_dict()
    return fingerprint(" ".join(weights), weights.values())
