"""Distillation of posteriors: the divergence of a student's from a teacher's, of a CTC head and of a transducer's joiner.

    KL(p || q) = sum over classes k of p_k (log p_k - log q_k)        p the teacher's, q the student's: softmax(z / temperature)

As a softer softmax has smaller gradients, the sum is multiplied by temperature^2 (Hinton et al. 2015, arXiv 1503.02531,
section 2). In each cell of a transducer's lattice the V classes are collapsed to three: the next label, blank, and all others
together (Panchapagesan et al. 2020, arXiv 2011.06110). Of the teacher these three numbers are kept for each cell; the logits
of both exist for a tile of cells at a time, and backward computes the student's again.

Both are means over an utterance's states or cells, where the paper takes the sum over cells: so a weight means the same for a
short and a long utterance.

B utterances   T states   U labels   S = U + 1   J joint dimension   V classes with blank   t states of a tile
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from asr.data.tokenizer import BLANK
from asr.losses.rnnt import tile_cells_of
from asr.models.encoder import padding_mask
from asr.models.joiner import Joiner


def divergence(teacher_K: Tensor, student_K: Tensor) -> Tensor:
    """KL(p || q), (...), of log probabilities (..., K); those of impossible classes are finite, and so low that p is 0."""
    return (teacher_K.exp() * (teacher_K - student_K)).sum(-1)


def log_posteriors(logits_V: Tensor, temperature: float) -> Tensor:
    """Log of softmax(z / temperature), (..., V), in at least fp32."""
    wide = torch.promote_types(logits_V.dtype, torch.float32)
    return (logits_V.to(wide) / temperature).log_softmax(-1)


def state_divergence(teacher_BTV: Tensor, student_BTV: Tensor, lengths_B: Tensor, temperature: float) -> Tensor:
    """Scalar: the sum over utterances of temperature^2 times the mean divergence over their states; arguments are logits."""
    with torch.autocast(student_BTV.device.type, enabled=False):
        both = (log_posteriors(each, temperature) for each in (teacher_BTV, student_BTV))
        divergence_BT = divergence(*both).masked_fill(padding_mask(lengths_B, student_BTV.shape[1]), 0.0)
        return temperature**2 * (divergence_BT.sum(1) / lengths_B).sum()


def three_classes(logits_tSV: Tensor, label_S: Tensor, temperature: float) -> Tensor:
    """Log probabilities (t, S, 3) of blank, of the next label and of all other classes, in at least fp32.

    ``label_S`` is the label that follows each prediction, and BLANK where none does: its probability is 0 there.
    """
    log_probs_tSV = log_posteriors(logits_tSV, temperature)
    lowest = torch.finfo(log_probs_tSV.dtype).min  # a probability of 0 whose logarithm has a gradient
    next_tS1 = label_S.expand(len(logits_tSV), -1).unsqueeze(-1)
    blank_tS = log_probs_tSV[..., BLANK]
    label_tS = log_probs_tSV.gather(2, next_tS1).squeeze(2).masked_fill(label_S == BLANK, lowest)
    others_tSV = log_probs_tSV.scatter(2, next_tS1, lowest)
    others_tSV = torch.cat([others_tSV[..., :BLANK], others_tSV[..., BLANK + 1 :]], dim=-1)
    return torch.stack([blank_tS, label_tS, others_tSV.logsumexp(-1)], dim=-1)


@dataclass(frozen=True, slots=True)
class Lattice:
    """What the posteriors of a batch's lattices follow from."""

    joiner: Joiner
    encoder_BTJ: Tensor  # projected states
    predictor_BSJ: Tensor  # projected predictions

    def classes(self, encoder_tJ: Tensor, predictor_SJ: Tensor, label_S: Tensor, temperature: float) -> Tensor:
        """Log probabilities (t, S, 3) of the cells of some states."""
        logits_tSV = self.joiner.logits(encoder_tJ.unsqueeze(1), predictor_SJ)
        with torch.autocast(logits_tSV.device.type, enabled=False):
            return three_classes(logits_tSV, label_S, temperature)


@dataclass(frozen=True, slots=True)
class Transcripts:
    """The labels of a batch, and how far its lattices reach."""

    targets_BU: Tensor
    states_B: list[int]
    labels_B: list[int]

    def next_labels(self) -> Iterator[Tensor]:
        """For each utterance (S,): the label after each prediction, BLANK after the last one."""
        for targets_U, labels in zip(self.targets_BU, self.labels_B, strict=True):
            yield torch.cat([targets_U[:labels], targets_U.new_full((1,), BLANK)])


def lattice_divergence(
    teacher: Lattice, student: Lattice, transcripts: Transcripts, temperature: float, tile_cells: int | None = None
) -> Tensor:
    """Scalar: the sum over utterances of temperature^2 times the mean divergence over the cells of their lattices.

    Args:
        tile_cells: number of cells whose logits exist at a time, in whole states; None: chosen for the device.
    """
    tile_cells = tile_cells or tile_cells_of(student.encoder_BTJ.device, *student.joiner.output.weight.shape)
    sizes = list(zip(transcripts.states_B, transcripts.labels_B, strict=True))
    rows = [_rows(lattice, sizes, tile_cells) for lattice in (teacher, student)]
    total = []
    for label_S, (states, _), theirs, own in zip(transcripts.next_labels(), sizes, *rows, strict=True):
        cells = states * len(label_S)
        for (teacher_tJ, teacher_SJ), (student_tJ, student_SJ) in zip(theirs, own, strict=True):
            with torch.no_grad():
                teacher_tS3 = teacher.classes(teacher_tJ, teacher_SJ, label_S, temperature)
            summed = checkpoint(
                _summed, student, student_tJ, student_SJ, label_S, teacher_tS3, temperature,
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
            total.append(summed / cells)
    return temperature**2 * torch.stack(total).sum()


def _summed(
    student: Lattice, student_tJ: Tensor, student_SJ: Tensor, label_S: Tensor, teacher_tS3: Tensor, temperature: float
) -> Tensor:
    """Scalar: the divergence summed over the cells of a tile."""
    return divergence(teacher_tS3, student.classes(student_tJ, student_SJ, label_S, temperature)).sum()


def _rows(lattice: Lattice, sizes: list[tuple[int, int]], tile_cells: int) -> list[list[tuple[Tensor, Tensor]]]:
    """For each utterance its tiles: some of its states (t, J), and all of its predictions (S, J).

    Unbound and split, so that backward puts a batch's gradients together once, not once a tile.
    """
    both = zip(lattice.encoder_BTJ.unbind(), lattice.predictor_BSJ.unbind(), sizes, strict=True)
    return [
        [(part_tJ, predictor_SJ[: labels + 1]) for part_tJ in encoder_TJ[:states].split(max(1, tile_cells // (labels + 1)))]
        for encoder_TJ, predictor_SJ, (states, labels) in both
    ]  # fmt: skip
