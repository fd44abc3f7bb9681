"""Sums over all alignments of the lattice, row by row: one cumulative log-sum-exp over the frames for each label.

Along a row of cells with u labels emitted, the recursion of lattice.py over frames is a running sum of blanks, which can
be taken out of it. With B(t, u) = sum_{s<t} log blank(s, u),

    log alpha(t, u) - B(t, u)  =  log sum_{s<=t} exp(log alpha(s, u-1) - B(s, u-1) + D(s, u))
                      D(t, u)  =  log label(t, u-1) + B(t, u-1) - B(t, u)

and log alpha(t, 0) = B(t, 0): an addition and ``torch.logcumsumexp`` per label in place of three operators per diagonal.
beta is the same on the lattice turned around, (t, u) -> (T-1-t, U-u), where an arc's weight lies with the cell that it is
of, so that B includes frame t itself. Both directions go through the recursion together, as one batch.

N valid cells, packed   S = U + 1 rows   B utterances, 2B with the lattices turned around   T frames   X = 2 S B T
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.losses.lattice import Shape

LEAST = -1e7  # of a row's sum of blanks: below it their rounding, taken out and put back, would show


@dataclass(frozen=True, slots=True)
class Places:
    """Where packed cells lie in tensors of shape (S, B, T), and the other way round.

    For posteriors the shape is (S, 2B, T), with the lattices turned around behind.
    """

    packed_SBT: Tensor  # N where there is no cell
    padded_N: Tensor  # in the flattened tensor
    turned_N: Tensor | None  # likewise, of the lattices turned around; None without it
    utterance_N: Tensor
    last_N: Tensor  # whether a cell is in its utterance's last frame
    top_N: Tensor  # whether all labels have been emitted there
    end_B: Tensor  # the last packed cell of each utterance
    row: int  # elements between rows

    @staticmethod
    def of(shape: Shape, device: torch.device, with_posteriors: bool) -> "Places":
        """Build from lengths; all utterances have at least one frame."""
        batch, frames, cells = len(shape.frames), max(shape.frames), sum(shape.cells)
        frames_B, states_B, cells_B = torch.tensor([shape.frames, shape.states, shape.cells], device=device)
        behind_B = cells_B.cumsum(0)
        first_B, row = behind_B - cells_B, (1 + with_posteriors) * batch * frames
        frame_T, state_S = torch.arange(frames, device=device), torch.arange(max(shape.states), device=device)
        packed_SBT = frame_T * states_B[:, None] + first_B[:, None] + state_S[:, None, None]
        here_BT, here_SB = frame_T < frames_B[:, None], state_S[:, None] < states_B
        exists_SBT = here_SB[:, :, None] & here_BT
        places = [torch.where(exists_SBT, packed_SBT, cells)]
        if with_posteriors:
            places.append(torch.where(exists_SBT, (first_B + behind_B - 1)[:, None] - packed_SBT, cells))
        utterance_N = torch.repeat_interleave(cells_B, output_size=cells)
        first_N, frames_N, states_N = torch.stack([first_B, frames_B, states_B])[:, utterance_N]
        place_N = torch.arange(cells, device=device) - first_N
        frame_N = place_N // states_N
        state_N = place_N - frame_N * states_N
        to_last_N, to_top_N = frames_N - 1 - frame_N, states_N - 1 - state_N
        row_N = utterance_N * frames
        return Places(
            packed_SBT=torch.cat(places, 1),
            padded_N=state_N * row + row_N + frame_N,
            turned_N=to_top_N * row + row_N + to_last_N + batch * frames if with_posteriors else None,
            utterance_N=utterance_N,
            last_N=to_last_N == 0,
            top_N=to_top_N == 0,
            end_B=behind_B - 1,
            row=row,
        )


@dataclass(frozen=True, slots=True)
class RowSums:
    """The likelihood of each utterance and, from both directions, the posteriors of the arcs."""

    places: Places
    blank_N: Tensor
    label_N: Tensor
    paths_X: Tensor  # log alpha, and behind it log beta of the lattices turned around, flattened
    log_likelihood_B: Tensor

    def posteriors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Probability that an alignment takes the blank and the label arc of each cell; packed, (N,) each.

        Raises:
            RuntimeError: the sums were made without the second direction.
        """
        places = self.places
        if places.turned_N is None:
            raise RuntimeError("these sums are of one direction; ask for with_posteriors=True")
        start_N = self.paths_X[places.padded_N].sub_(self.log_likelihood_B[places.utterance_N])
        # In the last frame a blank leads nowhere, but from the last cell to the end.
        ahead_N = self.paths_X[places.turned_N - 1].masked_fill_(places.last_N, -torch.inf)
        ahead_N[places.end_B] = 0.0
        above_N = self.paths_X[places.turned_N - places.row]
        by_blank_N = ahead_N.add_(start_N).add_(self.blank_N).exp_()
        by_label_N = above_N.add_(start_N).add_(self.label_N).exp_().masked_fill_(places.top_N, 0.0)
        return by_blank_N.to(dtype), by_label_N.to(dtype)


def row_sums(blank_N: Tensor, label_N: Tensor, shape: Shape, with_posteriors: bool) -> RowSums | None:
    """Sums from packed log probabilities; None where blanks are too improbable for this form, or NaN.

    Label values at u = U are ignored. ``with_posteriors``: whether posteriors will be asked for, which need both directions.
    """
    places = Places.of(shape, blank_N.device, with_posteriors)
    blank_SBT = _padded(blank_N, 0.0, places.packed_SBT)
    sums_SBT = blank_SBT.cumsum(2)
    if not bool(sums_SBT[:, :, -1].amin() > LEAST):
        return None
    batch = len(shape.frames)
    sums_SBT[:, :batch] -= blank_SBT[:, :batch]  # what leads to a cell; turned around, what leaves it
    label_SBT = _padded(label_N, -torch.inf, places.packed_SBT)
    # A label's weight lies with the cell that it leaves; turned around, that is the row above.
    steps_SBT = torch.cat([label_SBT[:-1, :batch], label_SBT[1:, batch:]], 1)
    steps_SBT.add_(sums_SBT[:-1]).sub_(sums_SBT[1:])
    paths_X = accumulated(steps_SBT).add_(sums_SBT).view(-1)
    likelihood_B = paths_X[places.padded_N[places.end_B]].add_(blank_N[places.end_B])
    return RowSums(places, blank_N, label_N, paths_X, likelihood_B)


def accumulated(steps_SBT: Tensor) -> Tensor:
    """x(u) = logcumsumexp over frames of x(u - 1) + steps(u), from x(0) = 0; (S, B, T) from the steps to rows 1 to U."""
    labels, batch, frames = steps_SBT.shape
    x_SBT = steps_SBT.new_empty(labels + 1, batch, frames)
    x_SBT[0] = 0.0
    rows, sum_BT = x_SBT.unbind(), torch.empty_like(x_SBT[0])
    for row, step_BT in enumerate(steps_SBT.unbind()):
        torch.add(rows[row], step_BT, out=sum_BT)
        torch.logcumsumexp(sum_BT, 1, out=rows[row + 1])
    return x_SBT


def _padded(x_N: Tensor, fill: float, packed_SBT: Tensor) -> Tensor:
    return torch.cat([x_N, x_N.new_full((1,), fill)])[packed_SBT]
