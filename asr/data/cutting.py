"""Cutting long utterances at the speaker's pauses into pieces short enough to train a transducer at little cost.

Two sources must agree on a cut: the level of the signal shows that there is a pause, and a forced alignment shows which
words lie before it. A pause counts if the alignment puts no token of an earlier word after it and no token of a later
word before it. So an alignment error shorter than the pause is harmless; the alignment of a poor model is not.

N samples   T frames of 10 ms   W words
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asr.data.manifest import Utterance
from distributed.errors import UsageError
from distributed.ranges import Count, Positive

FRAME_SECONDS = 0.01
FLOOR = 1e-10  # power of full scale, -100 dB: digital silence has no logarithm
QUIET_QUANTILE, LOUD_QUANTILE = 0.1, 0.9  # quantiles of an utterance's levels; below their mean, in dB, it is quiet

Span = tuple[float, float]  # seconds from the utterance's start


class WordsDifferError(ValueError):
    """The alignment has another number of words than the text, so it does not tell where the words lie."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where an utterance may be cut: the middle of a pause."""

    seconds: float  # from the utterance's start
    pause: float  # seconds of quiet around it
    words: int  # words before it


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts utterances, given the lengths that pieces may have and the definition of a pause.

    Args:
        max_seconds: longer utterances are cut.
        min_seconds: shortest piece.
        pause_seconds: shortest pause that may be cut.
    """

    max_seconds: Positive
    min_seconds: Positive
    pause_seconds: Positive

    def __post_init__(self) -> None:
        if self.min_seconds > self.max_seconds:
            raise UsageError(
                f"cutter.min_seconds: {self.min_seconds:g} is more than cutter.max_seconds, {self.max_seconds:g}; "
                "no piece could be had: lower the one or raise the other"
            )

    def pieces(
        self, utterance: Utterance, samples_N: Tensor, sample_rate: Count, spans: Sequence[Span]
    ) -> list[Utterance]:
        """The utterance as the fewest pieces that cover it, of those the ones with the longest pauses between them.

        A stretch without a pause stays a piece longer than ``max_seconds``; the total length of such pieces is minimal.

        Args:
            spans: (W,) first and last moment at which the alignment has a token of each word of the text.

        Raises:
            WordsDifferError: there are not as many spans as words.
        """
        words = utterance.text.split()
        if len(spans) != len(words):
            raise WordsDifferError(f"the tokenizer makes {len(spans)} words of the {len(words)} of its text")
        found = [cut for pause in pauses(samples_N, sample_rate, self.pause_seconds) if (cut := agreed(pause, spans))]
        ends = [Cut(0.0, 0.0, 0), *found, Cut(utterance.duration, 0.0, len(words))]
        chosen = [ends[index] for index in self._fewest(ends)]
        if len(chosen) == 2:
            return [utterance]
        offset = utterance.offset or 0.0
        return [
            replace(
                utterance,
                id=f"{utterance.id}-{number:02d}",
                offset=round(offset + start.seconds, 6),
                duration=round(end.seconds - start.seconds, 6),
                text=" ".join(words[start.words : end.words]),
            )
            for number, (start, end) in enumerate(itertools.pairwise(chosen))
        ]

    def _fewest(self, ends: Sequence[Cut]) -> list[int]:
        """Indices of the ends of the best pieces: a shortest path, whose cost is compared part by part."""
        costs: list[tuple[float, int, float]] = [
            (0.0, 0, 0.0)
        ]  # microseconds in overlong pieces, pieces, - seconds of pause
        before = [0]
        for end in range(1, len(ends)):
            options = [(self._longer(costs[start], ends[start], ends[end]), start) for start in range(end)]
            cost, start = min(options)
            costs.append(cost)
            before.append(start)
        path = [len(ends) - 1]
        while path[-1]:
            path.append(before[path[-1]])
        return path[::-1]

    def _longer(self, cost: tuple[float, int, float], start: Cut, end: Cut) -> tuple[float, int, float]:
        """The cost of a path extended by the piece from ``start`` to ``end``; infinite if the piece is too short."""
        seconds = end.seconds - start.seconds
        if seconds < self.min_seconds or end.words == start.words:
            return (float("inf"), cost[1], cost[2])
        # In whole microseconds, whose sums are exact: rounding must not choose between cuts that lose as much.
        lost = round(1e6 * end.seconds) - round(1e6 * start.seconds) if seconds > self.max_seconds else 0
        return (cost[0] + lost, cost[1] + 1, cost[2] - end.pause)


def agreed(pause: Span, spans: Sequence[Span]) -> Cut | None:
    """The cut in a pause, if the alignment has no token of an earlier word after it, nor of a later word before it."""
    start, end = pause
    middle = (start + end) / 2
    before = sum((first + last) / 2 < middle for first, last in spans)
    if not 0 < before < len(spans) or spans[before - 1][1] > end or spans[before][0] < start:
        return None
    return Cut(round(middle / FRAME_SECONDS) * FRAME_SECONDS, end - start, before)


def pauses(samples_N: Tensor, sample_rate: int, shortest: float) -> list[Span]:
    """Stretches of at least ``shortest`` seconds in which the level stays below half way from quiet to loud, in dB."""
    hop = round(FRAME_SECONDS * sample_rate)
    seconds = hop / sample_rate  # not always 10 ms: 220 samples at 22050 Hz, a drift of 0.23 %
    frames = len(samples_N) // hop
    if not frames:
        return []
    power_T = samples_N[: frames * hop].reshape(frames, hop).square().mean(1)
    level_T = 10 * torch.log10(power_T + FLOOR)
    threshold = (torch.quantile(level_T, QUIET_QUANTILE) + torch.quantile(level_T, LOUD_QUANTILE)) / 2
    stretches, start = [], 0
    for quiet, group in itertools.groupby((level_T < threshold).tolist()):
        end = start + sum(1 for _ in group)
        if quiet and (end - start) * seconds >= shortest:
            stretches.append((start * seconds, end * seconds))
        start = end
    return stretches
