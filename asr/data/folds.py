"""Folds of a training set: parts of it, of which a run leaves one out, so that it can be decoded by a model that has not heard it.

A fold is a function of the manifest's speakers or ids alone, before any utterance is refused: runs that screen with other
features or tokenizers divide the set in the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from asr.data.manifest import Utterance
from distributed.errors import UsageError
from distributed.ranges import Count

DIVIDED = "train"  # the split that has folds
LEFT_OUT = "left_out"  # the split of the fold that a run does not train on


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One of the folds, numbered from 1, into which the training set is divided; ``leave_out`` None: none of them.

    Raises:
        UsageError: there is no such fold, or it is all there is.
    """

    leave_out: Count | None
    of: Count
    by: Literal["speaker", "utterance"]

    def __post_init__(self) -> None:
        if self.leave_out is None:
            return
        if self.of == 1:
            raise UsageError("fold.of=1: without the only fold there is nothing to train on; set fold.of=2 or more")
        if not 1 <= self.leave_out <= self.of:
            raise UsageError(
                f"fold.leave_out={self.leave_out}: with fold.of={self.of} it must be a number from 1 to {self.of}, "
                "or null to train on everything"
            )

    def part(self, split: str, utterances: Sequence[Utterance]) -> Sequence[Utterance]:
        """Of the utterances of the divided split, those that belong to ``split``, in their order; of other splits all."""
        if self.leave_out is None or split not in (DIVIDED, LEFT_OUT):
            return utterances
        number_of = self.assign(utterances)
        return [each for each in utterances if (number_of(each) == self.leave_out) == (split == LEFT_OUT)]

    def assign(self, utterances: Sequence[Utterance]) -> Callable[[Utterance], int]:
        """The number of the fold of each utterance: sorted names of speakers, or ids, are dealt out in turn.

        Raises:
            UsageError: there are fewer of them than folds, or utterances without a speaker.
        """
        names = sorted({self._name(each) for each in utterances})
        if names and not names[0] and self.by == "speaker":
            without = [each.id for each in utterances if not each.speaker]
            raise UsageError(
                f"fold.by=speaker: {len(without)} of {len(utterances)} utterances of {DIVIDED} have no speaker, "
                f"{without[0]} first; set fold.by=utterance"
            )
        if len(names) < self.of:
            other = ", or fold.by=utterance" if self.by == "speaker" else ""
            raise UsageError(
                f"fold.of={self.of}: {DIVIDED} has {len(names)} {self.by}s (fold.by={self.by}), and every fold needs one; "
                f"set fold.of={len(names)} or less{other}"
            )
        numbers = {name: place % self.of + 1 for place, name in enumerate(names)}
        return lambda utterance: numbers[self._name(utterance)]

    def _name(self, utterance: Utterance) -> str:
        return utterance.speaker if self.by == "speaker" else utterance.id


UNDIVIDED = Fold(leave_out=None, of=1, by="utterance")
