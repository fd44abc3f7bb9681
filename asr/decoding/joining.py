"""Joins the words of overlapping windows of one recording.

Both windows have heard the overlap, each with less context at its own end of it. The cut is made at a word that both
have recognised at about the same time, the one nearest to the middle of the overlap; where there is none, at the middle.
"""

from collections.abc import Sequence

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
    pairs = [
        (abs((_middle(one) + _middle(other)) / 2 - centre), place, other_place)
        for place, one in enumerate(before[first:], start=first)
        for other_place, other in enumerate(after)
        if other.start < end and one.text == other.text and abs(_middle(one) - _middle(other)) <= SAME_SECONDS
    ]
    if pairs:
        _, place, other_place = min(pairs)
        return [*before[: place + 1], *after[other_place + 1 :]]
    kept = [word for word in before if _middle(word) < centre]
    return [*kept, *(word for word in after if _middle(word) >= centre)]


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
