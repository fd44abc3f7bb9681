"""Labels of a beam search's hypotheses and the frames at which they were emitted, found by going back step by step.

A search only puts away what each step has chosen. A hypothesis is a cell, step x K + its place in the beam after so many
steps, from which the way back is walked once, when the search is over.

B utterances searched in a step   K hypotheses of a beam   R rows: steps x utterances searched in them
"""

from collections import defaultdict
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
    """The steps of a search with ``beam`` hypotheses for each utterance."""

    def __init__(self, beam: int) -> None:
        self.beam = beam
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        """Put away one more step."""
        self._steps.append(step)

    def read(self, utterances: list[int], cells: list[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Labels and frames of some hypotheses, by their utterances and cells."""
        links, first = self._links()
        paths = [self._path(links, first[utterance], cell) for utterance, cell in zip(utterances, cells, strict=True)]
        labels = [[label for label, _ in path] for path in paths]
        # A hypothesis of u labels is at frame step - u.
        return labels, [[step - before for before, (_, step) in enumerate(path)] for path in paths]

    def _path(self, links: list[int], first: int, cell: int) -> list[tuple[int, int]]:
        """The labels of a hypothesis, in order, with the steps that took them."""
        step, place = divmod(cell, self.beam)
        path = []
        while step:
            step -= 1
            label, place = divmod(links[(first + step) * self.beam + place], self.beam)
            if label != BLANK:
                path.append((label, step))
        return path[::-1]

    def _links(self) -> tuple[list[int], dict[int, int]]:
        """Of each step's new hypotheses: label x K + the old one that they come from; and the rows where utterances begin.

        A row of K is a step of one utterance, whose steps follow one another: it is searched from the first to its last.
        """
        if not self._steps:
            return [], defaultdict(int)
        utterance_R, old_RK, token_RK, comes_RK, prefix_RK, last_RK = map(torch.cat, zip(*self._steps, strict=True))
        comes_RK = comes_RK.gather(1, old_RK) & (token_RK == BLANK)
        label_RK = torch.where(comes_RK, last_RK.gather(1, old_RK), token_RK)
        links_RK = label_RK * self.beam + torch.where(comes_RK, prefix_RK.gather(1, old_RK), old_RK)
        utterance_R, order_R = utterance_R.sort(stable=True)
        first: dict[int, int] = defaultdict(int)  # an utterance without frames has no row, and needs none
        for row, utterance in reversed(list(enumerate(utterance_R.tolist()))):
            first[utterance] = row
        return links_RK[order_R].flatten().tolist(), first
