"""Layerwise distillation: distances between the states of two encoders, layer by layer, through learned linear maps.

    d(h, g; W) = mean over states and entries of (h - W g)^2          of one utterance; padding has no part in it
    loss       = sum over utterances of (1/L) sum over l of d(h_l, g_m(l); W_l)

h are the student's states and g the teacher's (Jiang et al. 2023, arXiv 2305.19549, layerwise distillation). A map begins
as the identity where both have one width, so that a copy of the teacher has a loss of 0, and as random orthogonal rows
or columns elsewhere.

B utterances   S states   D entries of a student's state   E entries of a teacher's   L pairs of layers
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asr.models.encoder import padding_mask


def state_distance(student_BSD: Tensor, mapped_BSD: Tensor, lengths_B: Tensor) -> Tensor:
    """Scalar in at least fp32: the sum over utterances of the mean square of (student - mapped) over their own states."""
    with torch.autocast(student_BSD.device.type, enabled=False):
        wide = torch.promote_types(student_BSD.dtype, torch.float32)
        padding_BS1 = padding_mask(lengths_B, student_BSD.shape[1]).unsqueeze(-1)
        difference_BSD = (student_BSD.to(wide) - mapped_BSD.to(wide)).masked_fill(padding_BS1, 0.0)
        return (difference_BSD.square().sum((1, 2)) / (lengths_B * student_BSD.shape[2])).sum()


def spread(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs (student's layer, teacher's), counted from 0: every layer of the student, evenly over the teacher's, last to last."""
    return [(layer, -(-(layer + 1) * teacher_layers // student_layers) - 1) for layer in range(student_layers)]


class LayerMaps(nn.Module):
    """W of every pair of layers, and the loss through them.

    Args:
        sizes: (D, E) of every pair.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(teacher, student, bias=False) for student, teacher in sizes)
        for each in self.maps:
            assert isinstance(each, nn.Linear)
            initial = nn.init.eye_ if each.in_features == each.out_features else nn.init.orthogonal_
            initial(each.weight)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], lengths_B: Tensor) -> Tensor:
        """Scalar: the loss summed over utterances, of states (B, S, D) and (B, S, E) of every pair."""
        padding_BS1 = padding_mask(lengths_B, student[0].shape[1]).unsqueeze(-1)
        distances = [
            state_distance(student_BSD, mapped(teacher_BSE.masked_fill(padding_BS1, 0.0)), lengths_B)
            for mapped, student_BSD, teacher_BSE in zip(self.maps, student, teacher, strict=True)
        ]
        return torch.stack(distances).mean()
