"""The pruned transducer loss (Kuang et al. 2022, arXiv 2206.13236, after k2): two passes, the second on few cells.

The first is the loss of a joiner that only adds (additive.py), cheap and trained along. The occupancies of its lattice
choose a window of labels for each frame; the second is the exact loss with all cells outside of the windows closed.

B utterances   T frames   U labels   S = U + 1   J joint dimension   V classes with blank   n cells of the windows
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.losses.additive import additive_scores, lattice_loss
from asr.losses.cells import CellIndex
from asr.losses.inputs import LossInputs
from asr.losses.lattice import Shape
from asr.losses.rnnt import ExactLoss, transducer_loss
from distributed.ranges import Fraction, Positive, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedLoss:
    """The settings of ``PrunedTransducerLoss``, in the configuration."""

    prune_range: Annotated[int, Range(low=2)]  # cells of a frame's window
    simple_scale: Positive  # weight of the first pass
    pruned_scale: Positive  # weight of the second pass
    lm_scale: Fraction  # scale in the first pass: see additive_scores
    lattice: ExactLoss  # the second pass's loss; its fastemit and delay_penalty apply to both passes

    def sized(self, *, joint: int, classes: int) -> "PrunedTransducerLoss":
        """Return the loss with the parameters of the first pass's joiner, drawn from torch's global generator."""
        return PrunedTransducerLoss(self, joint=joint, classes=classes)


class Passes(NamedTuple):
    """The losses of the two passes, (B,) each."""

    simple_B: Tensor
    pruned_B: Tensor


class PrunedTransducerLoss(nn.Module):
    """simple_scale x the loss of an additive joiner + pruned_scale x the loss over the windows that it chooses."""

    def __init__(self, settings: PrunedLoss, *, joint: int, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.simple_scale, self.pruned_scale = settings.simple_scale, settings.pruned_scale  # the present ones
        self.acoustic = nn.Linear(joint, classes)
        self.language = nn.Linear(joint, classes, bias=False)  # one bias: the two scores are added

    def forward(self, inputs: LossInputs) -> Tensor:
        """Loss of each utterance, (B,), float32 (float64 for float64 inputs). Errors are those of the exact loss."""
        simple_B, pruned_B = self.passes(inputs)
        return self.simple_scale * simple_B + self.pruned_scale * pruned_B

    def passes(self, inputs: LossInputs) -> Passes:
        """The losses of the two passes, not scaled."""
        shape = inputs.shape()
        sizes = Sizes.of(shape, inputs.encoder_BTJ.device)
        valid_BTS = valid_cells(sizes)
        simple_B, occupancy_N = self._simple(inputs, shape, valid_BTS)
        occupancy_BTS = occupancy_N.new_zeros(valid_BTS.shape).masked_scatter_(valid_BTS, occupancy_N)
        open_n = windows(occupancy_BTS, sizes, self.settings.prune_range)[valid_BTS].nonzero().squeeze(1)
        return Passes(simple_B, transducer_loss(inputs, self.settings.lattice, open_n))

    def _simple(self, inputs: LossInputs, shape: Shape, valid_BTS: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) and occupancies (N,) of the additive joiner; values beyond an utterance's lengths are not read."""
        _, frames, states = valid_BTS.shape
        encoder_BTJ = torch.where(valid_BTS[:, :, :1], inputs.encoder_BTJ[:, :frames], 0)
        predictor_BSJ = torch.where(valid_BTS[:, 0, :, None], inputs.predictor_BSJ[:, :states], 0)
        wide = torch.promote_types(inputs.encoder_BTJ.dtype, torch.float32)
        acoustic_BTV, language_BSV = self.acoustic(encoder_BTJ).to(wide), self.language(predictor_BSJ).to(wide)
        label_BS = CellIndex.build(inputs, shape).label_Q.view(len(shape.frames), -1)[:, :states]
        options = self.settings.lattice
        with torch.autocast(inputs.encoder_BTJ.device.type, enabled=False):
            blank_BTS, label_BTS = additive_scores(
                acoustic_BTV, language_BSV, label_BS, blank=inputs.blank, lm_scale=self.settings.lm_scale
            )
            return lattice_loss(
                blank_BTS[valid_BTS],
                label_BTS[valid_BTS],
                shape,
                fastemit=options.fastemit,
                delay_penalty=options.delay_penalty,
            )


class Sizes(NamedTuple):
    """Sizes of the lattices, on their device."""

    frames_B: Tensor  # T of each utterance
    states_B: Tensor  # S of each utterance
    frame_T: Tensor  # 0, 1, ... of the padded lattices
    state_S: Tensor  # likewise

    @staticmethod
    def of(shape: Shape, device: torch.device) -> "Sizes":
        """Build from the lengths in ``shape``."""
        frames_B, states_B = torch.tensor(shape.frames, device=device), torch.tensor(shape.states, device=device)
        frame_T = torch.arange(max(shape.frames), device=device)
        state_S = torch.arange(max(shape.states), device=device)
        return Sizes(frames_B, states_B, frame_T, state_S)


def valid_cells(sizes: Sizes) -> Tensor:
    """(B, T, S) bool: True for the cells of the padded lattices that exist; in this order they are packed."""
    frames_B, states_B, frame_T, state_S = sizes
    return (frame_T < frames_B[:, None])[:, :, None] & (state_S < states_B[:, None])[:, None, :]


def windows(occupancy_BTS: Tensor, sizes: Sizes, prune_range: int) -> Tensor:
    """(B, T, S) bool: True for the cells within the windows; values beyond an utterance's end have no meaning.

    The windows of a frame are the ``prune_range`` neighbours that alignments pass most, as far as ``linked`` lets them.
    Where there are so few frames that no alignment would be left (T (prune_range - 1) < U), windows are wider.
    """
    frames_B, states_B, frame_T, state_S = sizes
    needed_B = -(-(states_B - 1) // frames_B) + 1
    width_B = torch.minimum(needed_B.clamp(min=prune_range), states_B)
    last_B = states_B - width_B  # the window that holds the last label
    wanted_BT = _fullest(occupancy_BTS, width_B, last_B)
    wanted_BT = torch.where(frame_T < frames_B[:, None] - 1, wanted_BT, last_B[:, None])
    first_BT1 = linked(wanted_BT, width_B - 1)[:, :, None]
    return (state_S >= first_BT1) & (state_S < first_BT1 + width_B[:, None, None])


def linked(wanted_BT: Tensor, step_B: Tensor) -> Tensor:
    """First states (B, T) of linked windows: as wanted where possible, but 0 first, never falling, steps <= step_B.

    As in k2: a window that lies behind a later one moves back to it; one from which a later one is out of reach moves up.
    """
    rising_BT = _least_from_here(wanted_BT)
    reach_BT = step_B[:, None] * torch.arange(wanted_BT.shape[1], device=wanted_BT.device)
    return reach_BT - _least_from_here(reach_BT - rising_BT).clamp(min=0)


def _fullest(occupancy_BTS: Tensor, width_B: Tensor, last_B: Tensor) -> Tensor:
    """First state, at most last_B, of the window with the largest sum, (B, T)."""
    sums_BTS = functional.pad(occupancy_BTS.cumsum(2), (1, 0))
    first_S = torch.arange(int(last_B.max()) + 1, device=occupancy_BTS.device)
    behind_BS = (first_S + width_B[:, None]).clamp(max=sums_BTS.shape[2] - 1)
    behind_BTS = behind_BS[:, None].expand(-1, sums_BTS.shape[1], -1)
    sum_BTS = sums_BTS.gather(2, behind_BTS) - sums_BTS[:, :, : len(first_S)]
    return sum_BTS.masked_fill(first_S > last_B[:, None, None], -1).argmax(2)


def _least_from_here(x_BT: Tensor) -> Tensor:
    """The minimum of each element and all that follow it."""
    return x_BT.flip(1).cummin(1).values.flip(1)
