"""Occupancy and best path of the lattice against the slow reference and against every alignment."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.losses.alignment import Emission, best_paths, lattice_arcs, lattice_occupancy
from asr.losses.inputs import LossInputs
from asr.losses.reference import joiner_logits, reference_occupancy


def make_inputs(frames: list[int], labels: list[int]) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(5)
    batch, width, classes = len(frames), 6, 5
    return {
        "encoder_BTJ": torch.randn(batch, max(frames), width, generator=rng),
        "predictor_BSJ": torch.randn(batch, max(labels) + 1, width, generator=rng),
        "weight_VJ": 2 * torch.randn(classes, width, generator=rng),
        "bias_V": torch.randn(classes, generator=rng),
        "targets_BU": torch.randint(1, classes, (batch, max(labels)), generator=rng),
        "encoder_lengths_B": torch.tensor(frames),
        "target_lengths_B": torch.tensor(labels),
    }


def logits_of(inputs: dict[str, Any], index: int) -> tuple[Tensor, Tensor]:
    frames, labels = int(inputs["encoder_lengths_B"][index]), int(inputs["target_lengths_B"][index])
    states = inputs["encoder_BTJ"][index, :frames], inputs["predictor_BSJ"][index, : labels + 1]
    return joiner_logits(*states, inputs["weight_VJ"], inputs["bias_V"]), inputs["targets_BU"][index, :labels]


def test_occupancy_is_that_of_the_reference() -> None:
    inputs = make_inputs([6, 2, 4, 1], [2, 5, 0, 3])
    occupancy_BTS = lattice_occupancy(lattice_arcs(LossInputs(**inputs, combine="add", blank=BLANK)))
    assert occupancy_BTS.shape == (4, 6, 6)
    for index, utterance_TS in enumerate(occupancy_BTS):
        expected_TS = reference_occupancy(*logits_of(inputs, index), BLANK).float()
        frames, states = expected_TS.shape
        torch.testing.assert_close(utterance_TS[:frames, :states], expected_TS)
        assert utterance_TS.sum() == pytest.approx(float(expected_TS.sum()))  # nothing outside of the utterance


def test_every_alignment_crosses_every_diagonal_once() -> None:
    inputs = make_inputs([7], [4])
    occupancy_TS = lattice_occupancy(lattice_arcs(LossInputs(**inputs, combine="multiply", blank=BLANK)))[0]
    diagonals_TS = torch.arange(7)[:, None] + torch.arange(5)
    sums = [float(occupancy_TS[diagonals_TS == diagonal].sum()) for diagonal in range(11)]
    assert sums == pytest.approx([1.0] * 11)


@pytest.mark.parametrize(("frames", "labels"), [(4, 3), (1, 3), (2, 4), (3, 0)])
def test_the_best_path_is_the_best_of_all_alignments(frames: int, labels: int) -> None:
    inputs = make_inputs([5, frames], [2, labels])  # beside another utterance, which must not matter
    logits_TSV, targets_U = logits_of(inputs, 1)
    log_probs_TSV = logits_TSV.log_softmax(-1)

    def score(emission_frames: tuple[int, ...]) -> float:
        emitted = sum(float(log_probs_TSV[t, u, targets_U[u]]) for u, t in enumerate(emission_frames))
        before = [sum(frame <= t for frame in emission_frames) for t in range(frames)]
        return emitted + sum(float(log_probs_TSV[t, u, 0]) for t, u in enumerate(before))

    candidates = itertools.combinations_with_replacement(range(frames), labels)
    best = max(candidates, key=score)
    path = best_paths(lattice_arcs(LossInputs(**inputs, combine="add", blank=BLANK)))[1]
    assert path == [Emission(frame, label) for label, frame in enumerate(best)]
