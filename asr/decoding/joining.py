"""Joins the words of overlapping windows of one recording.

Both windows have heard the overlap, each with less context at its own end of it. The cut is made at a word that both
have recognised at about the same time, the one nearest to the middle of the overlap; where there is none, at the middle.
Of equal words in a row, as in "no no no", two are the same one if either is the nearest to the other.
"""

from collections.abc import Mapping, Sequence

from asr.decoding.timed_words import Word

SAME_SECONDS = 0.5  # largest distance between the middles of a word in two windows


def join(before: Sequence[Word], after: Sequence[Word], start: float, end: float) -> list[Word]:
    """The words of two windows as those of one; times are those of the recording.

    Args:
        before: words up to ``end``, at which the earlier window ends.
        after: words of the later window, which begins at ``start``.
    """
    centre = (start + end) / 2
    first = next((place for place, word in enumerate(before) if word.end > start), len(before))
    apart = {
        (place, other_place): abs(_middle(one) - _middle(other))
        for place, one in enumerate(before[first:], start=first)
        for other_place, other in enumerate(after)
        if other.start < end and one.text == other.text
    }
    pairs = [
        (abs((_middle(before[place]) + _middle(after[other_place])) / 2 - centre), place, other_place)
        for place, other_place in _mutually_nearest(apart)
        if apart[place, other_place] <= SAME_SECONDS
    ]
    if pairs:
        _, place, other_place = min(pairs)
        return [*before[: place + 1], *after[other_place + 1 :]]
    kept = [word for word in before if _middle(word) < centre]
    return [*kept, *(word for word in after if _middle(word) >= centre)]


def _mutually_nearest(apart: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Those of the pairs of which neither belongs to a nearer pair."""
    nearest: dict[int, float] = {}
    nearest_other: dict[int, float] = {}
    for (place, other), distance in apart.items():
        nearest[place] = min(distance, nearest.get(place, distance))
        nearest_other[other] = min(distance, nearest_other.get(other, distance))
    return [pair for pair, distance in apart.items() if distance == nearest[pair[0]] == nearest_other[pair[1]]]


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
