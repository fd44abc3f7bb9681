"""What strings of digits say: any digit after any other, or a language of telephone numbers, dates and prices.

The language is there for experiments that need one, such as fusion with a language model or methods against exposure
bias. Its strings are entries of directories, of which the first are the most frequent (Zipf's law), as calls and dates are; hence
a digit tells much of the next one, and texts know entries that speech of less length has never said.
"""

from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Protocol

import torch
from torch import Generator

from distributed.errors import UsageError

Digits = tuple[int, ...]

DIRECTORY_SEED = 0  # the language is the same for every corpus
TELEPHONES, DATES, PRICES = 1000, 100, 30  # entries of the directories
EXCHANGES = 8  # the first three digits of telephone numbers
SHARES = {"telephone": 0.6, "date": 0.3, "price": 0.1}
CENTS = ((9, 9), (9, 9), (9, 9), (9, 5), (5, 0), (0, 0))  # what prices end with


class DigitSource(Protocol):
    """Where the digits of strings come from."""

    def draw(self, generator: Generator, available: Sequence[int]) -> Sequence[int]:
        """The digits of one string; ``available`` are those that its speaker has recordings of."""


class UniformDigits:
    """Digits and lengths all alike; ``num_digits`` are the fewest and the most, both included."""

    def __init__(self, num_digits: tuple[int, int]) -> None:
        self.num_digits = num_digits

    def draw(self, generator: Generator, available: Sequence[int]) -> list[int]:
        """The digits of one string, of those that its speaker has recordings of."""
        shortest, longest = self.num_digits
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        return [available[index] for index in torch.randint(len(available), (length,), generator=generator).tolist()]


class EverydayDigits:
    """Telephone numbers of 7 digits, dates of 6 (day, month, year) and prices of 3 or 4, by Zipf's law: about 1.2 bits a digit.

    ``num_digits``: strings that are shorter or longer are left out.

    Raises:
        UsageError: none are left.
    """

    def __init__(self, num_digits: tuple[int, int]) -> None:
        shortest, longest = num_digits
        weights: dict[Digits, float] = defaultdict(float)
        for kind, entries in _directories().items():
            ranks = {entry: 1 / rank for rank, entry in enumerate(entries, start=1)}
            for entry, weight in ranks.items():
                if shortest <= len(entry) <= longest:
                    weights[entry] += SHARES[kind] * weight / sum(ranks.values())
        if not weights:
            raise UsageError(
                f"data.language=everyday has strings of 3, 4, 6 and 7 digits, of which data.min_digits={shortest} "
                f"data.max_digits={longest} leaves none"
            )
        whole = sum(weights.values())
        self.probabilities = {entry: weight / whole for entry, weight in weights.items()}
        self._entries = list(self.probabilities)
        self._weights = torch.tensor(list(self.probabilities.values()), dtype=torch.float64)

    def draw(self, generator: Generator, available: Sequence[int]) -> Digits:
        """The digits of one string, whatever its speaker has recordings of."""
        return self._entries[int(torch.multinomial(self._weights, 1, generator=generator))]


def _directories() -> dict[str, list[Digits]]:
    """The entries of each kind, the most frequent first; all different."""
    random = Random(DIRECTORY_SEED)
    exchanges = [tuple(random.choices(range(10), k=3)) for _ in range(EXCHANGES)]
    by_rank = [1 / rank for rank in range(1, EXCHANGES + 1)]

    def telephone() -> Digits:
        return random.choices(exchanges, by_rank)[0] + tuple(random.choices(range(10), k=4))

    def date() -> Digits:
        day, month, year = random.randint(1, 28), random.randint(1, 12), random.randint(50, 99)
        return tuple(int(digit) for number in (day, month, year) for digit in f"{number:02d}")

    def price() -> Digits:
        return tuple(int(digit) for digit in str(random.choice([*range(1, 10), *range(1, 50)]))) + random.choice(CENTS)

    made = {"telephone": (telephone, TELEPHONES), "date": (date, DATES), "price": (price, PRICES)}
    found: dict[str, list[Digits]] = {}
    for kind, (draw, number) in made.items():
        entries: dict[Digits, None] = {}
        while len(entries) < number:
            entries[draw()] = None
        found[kind] = list(entries)
    return found


def digit_source(language: str | None, num_digits: tuple[int, int]) -> DigitSource:
    """The source that ``data.language`` names."""
    return UniformDigits(num_digits) if language is None else EverydayDigits(num_digits)
