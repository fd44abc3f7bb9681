"""The pattern search for weights of fusion: it finds the best place of a bowl, and keeps within its bounds."""

import pytest

from asr.decoding.rescoring import Weights
from asr.decoding.weight_search import FIRST_STEP, LAST_STEP, directions, refined

BOTH = directions(external=True, source=True)


def bowl(weights: Weights) -> float:
    """Fewest errors at 0.8, 0.4, 0.2, in a valley along both models' weights, as searches have it."""
    return (
        (weights.external - weights.source - 0.4) ** 2 + 0.1 * (weights.external - 0.8) ** 2
        + (weights.label_bonus - 0.2) ** 2
    )  # fmt: skip


def test_the_best_place_of_a_bowl_is_found() -> None:
    found = refined(Weights(0.3, 0.1, 0.6), bowl, BOTH, searches=200)
    best = min(found, key=found.__getitem__)
    assert (best.external, best.source, best.label_bonus) == pytest.approx((0.8, 0.4, 0.2), abs=LAST_STEP)
    assert len(found) < 60, "it ends by itself"


@pytest.mark.parametrize("searches", [1, 2, 7])
def test_no_more_searches_are_made_than_asked_for_and_none_twice(searches: int) -> None:
    asked = list[Weights]()

    def errors_of(weights: Weights) -> float:
        asked.append(weights)
        return bowl(weights)

    start = Weights(0.3, 0.1, 0.6)
    found = refined(start, errors_of, BOTH, searches)
    assert asked == list(found)
    assert asked[0] == start
    assert len(set(asked)) == len(asked) == searches


def test_what_is_found_first_is_gone_on_with() -> None:
    """Errors that become fewer with both weights for ever: every search but the first goes one step further that way."""
    found = refined(Weights(0.1, 0.0, 0.0), lambda weights: -weights.external - weights.source, BOTH, searches=4)
    assert [(each.external, each.source) for each in found] == [(0.1, 0.0), (0.3, 0.2), (0.5, 0.4), (0.7, 0.6)]


def test_weights_stay_where_they_may_be() -> None:
    ways = directions(external=True, source=False)
    found = refined(Weights(0.1, 0.0, 0.0), lambda weights: weights.external, ways, searches=50)
    assert all(each.external >= 0 and each.source == 0 for each in found)
    assert min(found, key=found.__getitem__).external == pytest.approx(0.0, abs=1e-9)
    assert any(each.label_bonus == -FIRST_STEP for each in found), "a bonus may be negative"


def test_models_that_are_not_there_are_not_moved() -> None:
    assert directions(external=True, source=False) == [(1, 0, 0), (0, 0, 1), (-1, 0, 0), (0, 0, -1)]
    assert directions(external=False, source=True) == [(0, 1, 0), (0, 0, 1), (0, -1, 0), (0, 0, -1)]
    assert BOTH[:4] == [(1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len(BOTH) == 8
