"""A grid of weights over lists of hypotheses, against choosing one by one."""

import itertools
import math

import torch

from asr.decoding.rescoring import Lists, Weights, best_setting, chosen, word_errors


def random_lists(sizes: list[int]) -> Lists:
    rng = torch.Generator().manual_seed(0)

    def column(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(sizes), max(sizes), generator=rng, dtype=torch.float64)

    padding_UN = torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]
    return Lists(
        log_prob_UN=column(-10, 0).masked_fill(padding_UN, -math.inf),
        external_UN=column(-10, 0).masked_fill(padding_UN, 0.0),
        source_UN=column(-10, 0).masked_fill(padding_UN, 0.0),
        labels_UN=column(0, 9).round().masked_fill(padding_UN, 0.0),
        errors_UN=column(0, 5).round().masked_fill(padding_UN, math.inf),
    )


GRID = [Weights(*each) for each in itertools.product([0.0, 0.5, 2.0], [0.0, 0.4], [-1.0, 0.0, 1.0])]


def test_each_setting_chooses_what_its_formula_says() -> None:
    sizes = [5, 1, 3, 4]
    lists = random_lists(sizes)
    places_PU = chosen(lists, GRID)
    errors_P = word_errors(lists, places_PU)
    for setting, places_U, errors in zip(GRID, places_PU.tolist(), errors_P.tolist(), strict=True):
        expected = 0.0
        for row, size in enumerate(sizes):
            scores = [
                float(lists.log_prob_UN[row, n])
                + setting.external * float(lists.external_UN[row, n])
                - setting.source * float(lists.source_UN[row, n])
                + setting.label_bonus * float(lists.labels_UN[row, n])
                for n in range(size)
            ]
            assert places_U[row] == scores.index(max(scores))
            expected += float(lists.errors_UN[row, places_U[row]])
        assert errors == expected
    assert len({tuple(row) for row in places_PU.tolist()}) > 5, "settings choose differently"


def test_among_equal_settings_the_smallest_weights_are_best() -> None:
    settings = [Weights(0.5, 0.2, 0.0), Weights(0.3, 0.0, -0.1), Weights(0.2, 0.0, 0.1), Weights(0.0, 0.0, 0.0)]
    assert best_setting(settings, torch.tensor([3.0, 3.0, 3.0, 4.0])) == 2
