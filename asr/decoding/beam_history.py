"""Labels of a beam search's hypotheses and the frames at which they were emitted, found by going back step by step.

A search only puts away what each step has chosen. A hypothesis is a cell, step x K + its place in the beam after so many
steps, from which the way back is walked once, when the search is over.

S steps   B utterances searched in a step   A utterances of the batch   K hypotheses of a beam
"""

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK


class Step(NamedTuple):
    """What a step of the search has chosen, for each hypothesis after it (new) or before it (old)."""

    rows_B: Tensor  # utterance within the batch
    old_BK: Tensor  # of new hypotheses: the old one of the same labels, or of all but the new one
    token_BK: Tensor  # of new hypotheses: the label taken, or BLANK
    comes_BK: Tensor  # of old hypotheses: True if taking a blank is less probable than what follows
    prefix_BK: Tensor  # of old hypotheses: the one from which the same labels came by taking the last one
    last_BK: Tensor  # of old hypotheses: this last label


class Histories:
    """The steps of a search of ``utterances`` utterances with ``beam`` hypotheses each."""

    def __init__(self, utterances: int, beam: int) -> None:
        self.utterances = utterances
        self.beam = beam
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        """Put away one more step."""
        self._steps.append(step)

    def read(self, utterances: list[int], cells: list[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Labels and frames of some hypotheses."""
        links_AN = self._links().tolist()
        paths = [self._path(links_AN[utterance], cell) for utterance, cell in zip(utterances, cells, strict=True)]
        labels = [[label for label, _ in path] for path in paths]
        # A hypothesis of u labels is at frame step - u.
        return labels, [[step - before for before, (_, step) in enumerate(path)] for path in paths]

    def _path(self, links_N: list[int], cell: int) -> list[tuple[int, int]]:
        """The labels of a hypothesis, in order, with the steps that took them."""
        step, place = divmod(cell, self.beam)
        path = []
        while step:
            step -= 1
            label, place = divmod(links_N[step * self.beam + place], self.beam)
            if label != BLANK:
                path.append((label, step))
        return path[::-1]

    def _links(self) -> Tensor:
        """(A, S x K) on the CPU: label of each step's new hypotheses x K + the old one that they come from."""
        if not self._steps:
            return torch.zeros(self.utterances, 0, dtype=torch.int64)
        like = self._steps[0].token_BK
        links_ASK = like.new_zeros(self.utterances, len(self._steps), self.beam)
        first = 0
        for _, group in groupby(self._steps, key=lambda step: id(step.rows_B)):
            steps = list(group)
            links_ASK[steps[0].rows_B, first : first + len(steps)] = self._links_of(steps)
            first += len(steps)
        return links_ASK.flatten(1).cpu()

    def _links_of(self, steps: list[Step]) -> Tensor:
        """(B, S, K) of some steps of the same utterances."""
        _, *columns = zip(*steps, strict=True)
        old_BSK, token_BSK, comes_BSK, prefix_BSK, last_BSK = (torch.stack(column, 1) for column in columns)
        comes_BSK = comes_BSK.gather(2, old_BSK) & (token_BSK == BLANK)
        label_BSK = torch.where(comes_BSK, last_BSK.gather(2, old_BSK), token_BSK)
        return label_BSK * self.beam + torch.where(comes_BSK, prefix_BSK.gather(2, old_BSK), old_BSK)
