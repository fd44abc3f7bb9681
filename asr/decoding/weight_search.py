"""Weights of fusion refined by searches: a pattern search (Hooke and Jeeves 1961, JACM 8(2)) from where rescored lists have led.

Lists hold what a recogniser finds alone, so that language models can choose little in them, and what they choose hardly
depends on their weights. In the search itself the models decide what stays in the beam, and weights matter more.
"""

from collections.abc import Callable, Iterator

from asr.decoding.rescoring import Weights

FIRST_STEP, LAST_STEP = 0.2, 0.05
DIGITS = 6  # of weights: 0.1 + 0.2 is 0.3
Direction = tuple[int, int, int]  # of external weight, source weight, bonus


def directions(*, external: bool, source: bool) -> list[Direction]:
    """The directions in which weights are moved, those that have most to gain first: models that are there together, then one by one."""
    together: Direction = (int(external), int(source), 0)
    one_by_one: list[Direction] = [
        *([(1, 0, 0)] if external else []),
        *([(0, 1, 0)] if source else []),
        (0, 0, 1),
    ]
    ways = list(dict.fromkeys([together, *one_by_one]))
    return [*ways, *((-a, -b, -c) for a, b, c in ways)]


def refined(
    start: Weights, errors_of: Callable[[Weights], float], ways: list[Direction], searches: int
) -> dict[Weights, float]:
    """Errors of every setting that was searched, ``start`` first, at most ``searches`` of them.

    A step is taken in the first direction in which errors become fewer, and in the same one again; where there is none, steps are
    halved. No weight of a model becomes negative.
    """
    found, best, step = {start: errors_of(start)}, start, FIRST_STEP
    while step >= LAST_STEP:
        for way, moved in _moves(best, ways, step):
            if moved in found:
                continue
            if len(found) >= searches:
                return found
            found[moved] = errors_of(moved)
            if found[moved] < found[best]:
                best, ways = moved, [way, *(each for each in ways if each != way)]
                break
        else:
            step /= 2
    return found


def _moves(start: Weights, ways: list[Direction], step: float) -> Iterator[tuple[Direction, Weights]]:
    for way in ways:
        external, source, bonus = (
            round(value + step * sign, DIGITS)
            for value, sign in zip((start.external, start.source, start.label_bonus), way, strict=True)
        )
        if min(external, source) >= 0:
            yield way, Weights(external, source, bonus)
