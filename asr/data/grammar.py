"""A small grammar of English: sentences that a synthesiser can speak and a recogniser can learn.

``small``: 40 words that sound distinct, 2 to 6 of them in any order, so that only the sound distinguishes them.
``full``: over 700 words; short sentences with numbers, dates, times and names, everything spelled out.

The full grammar is context-free: a rule is one of its alternatives, ``{rule}`` in it is expanded in turn; what is not
a list of alternatives (numbers, dates) is a function. Every text has lower-case letters, spaces and apostrophes only.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from asr.data.words import (
    ADJECTIVES,
    ADVERBS,
    CITIES,
    COUNTED,
    FIRST_NAMES,
    LAST_NAMES,
    MONTHS,
    NOUNS,
    PLACES,
    RELATIVES,
    SMALL,
    TENS,
    UNITS,
    VERBS,
    WEEKDAYS,
)
from distributed.errors import UsageError

Vocabulary = Literal["small", "full"]

_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
    "twenty": "twentieth",
    "thirty": "thirtieth",
}
_SMALL_WORDS_PER_SENTENCE = (2, 6)


def spell_number(number: int) -> str:
    """A number from 0 to 999,999 in words: 342 -> three hundred and forty two."""
    if not 0 <= number < 1_000_000:
        raise ValueError(f"number must be from 0 to 999,999, got {number}")
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        joint = " and " if 0 < rest < 100 else " "
        return spell_number(thousands) + " thousand" + (joint + spell_number(rest) if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return UNITS[hundreds] + " hundred" + (" and " + spell_number(rest) if rest else "")
    if number >= 20:
        tens, rest = divmod(number, 10)
        return TENS[tens - 2] + (" " + UNITS[rest] if rest else "")
    return UNITS[number]


def spell_ordinal(number: int) -> str:
    """An ordinal from 1 to 39 in words: 21 -> twenty first."""
    if not 1 <= number <= 39:
        raise ValueError(f"ordinal must be from 1 to 39, got {number}")
    *before, last = spell_number(number).split()
    return " ".join([*before, _ORDINALS.get(last, last + "th")])


def spell_year(year: int) -> str:
    """A year from 1100 to 2099 as it is said: 1984 -> nineteen eighty four, 2007 -> two thousand and seven."""
    if not 1100 <= year <= 2099:
        raise ValueError(f"year must be from 1100 to 2099, got {year}")
    century, rest = divmod(year, 100)
    if 2000 <= year < 2010:
        return spell_number(year)
    if rest == 0:
        return spell_number(century) + " hundred"
    return spell_number(century) + (" oh " if rest < 10 else " ") + spell_number(rest)


def spell_time(hour: int, minute: int) -> str:
    """A time on a twelve-hour clock as it is said: (3, 45) -> quarter to four, (3, 0) -> three o'clock."""
    if not (1 <= hour <= 12 and 0 <= minute < 60):
        raise ValueError(f"time must have an hour from 1 to 12 and a minute from 0 to 59, got {hour}:{minute}")
    following = spell_number(hour % 12 + 1)
    named = {0: "{hour} o'clock", 15: "quarter past {hour}", 30: "half past {hour}", 45: "quarter to {following}"}
    if minute in named:
        return named[minute].format(hour=spell_number(hour), following=following)
    return spell_number(hour) + (" oh " if minute < 10 else " ") + spell_number(minute)


def _integer(generator: torch.Generator, low: int, high: int) -> int:
    """A random integer, uniform from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _choice(generator: torch.Generator, alternatives: Sequence[str]) -> str:
    return alternatives[_integer(generator, 0, len(alternatives) - 1)]


def _number(generator: torch.Generator) -> str:
    """A random number whose count of digits is uniform, so that numbers of every length are equally likely."""
    digits = _integer(generator, 1, 5)
    return spell_number(_integer(generator, 10 ** (digits - 1), 10**digits - 1))


def _digits(generator: torch.Generator) -> str:
    return " ".join(UNITS[_integer(generator, 0, 9)] for _ in range(_integer(generator, 3, 6)))


def _time(generator: torch.Generator) -> str:
    minute = _integer(generator, 0, 11) * 5 if _integer(generator, 0, 1) else _integer(generator, 0, 59)
    return spell_time(_integer(generator, 1, 12), minute)


RULES: dict[str, Sequence[str] | Callable[[torch.Generator], str]] = {
    "number": _number,
    "digits": _digits,
    "time": _time,
    "few": lambda generator: spell_number(_integer(generator, 2, 99)),
    "day": lambda generator: spell_ordinal(_integer(generator, 1, 28)),  # every month has these
    "year": lambda generator: spell_year(_integer(generator, 1900, 2049)),
    "first": FIRST_NAMES,
    "last": LAST_NAMES,
    "city": CITIES,
    "place": PLACES,
    "noun": NOUNS,
    "counted": COUNTED,
    "adjective": ADJECTIVES,
    "adverb": ADVERBS,
    "verb": VERBS,
    "month": MONTHS,
    "weekday": WEEKDAYS,
    "person": ["{first} {last}", "{first}", "doctor {last}", "my {relative}", "{first}'s {relative}"],
    "relative": RELATIVES,
    "date": [
        "the {day} of {month}",
        "{month} the {day}",
        "{weekday} the {day} of {month}",
        "the {day} of {month} {year}",
    ],
    "when": ["on {weekday}", "at {time}", "on {date}", "in {month}", "in {year}", "tomorrow", "yesterday", "tonight"],
    "object": [
        "the {noun}",
        "the {adjective} {noun}",
        "{few} {counted}",
        "a very {adjective} {noun}",
        "{first}'s {noun}",
    ],
    "where": ["in {city}", "in the {place}", "near the {place}", "behind the {place}", "from {city} to {city}"],
    "question": ["where is", "who took", "when did you see", "why do you need", "can you find", "how much was"],
    "request": ["please bring", "remember", "do not forget", "give me", "look for", "show us", "let's wait for"],
    "sentence": [
        "{person} {verb} {object}",
        "{person} {verb} {object} {when}",
        "{person} {adverb} {verb} {object} {where}",
        "{question} {object}",
        "{question} {object} {where}",
        "{request} {object} {when}",
        "the {noun} is {adjective} and {adjective}",
        "there were {few} {counted} {where}",
        "it was {time} {when}",
        "the meeting with {person} is on {date}",
        "{person} was born on {date}",
        "the number is {number}",
        "that costs {number} pounds",
        "call {person} on {digits}",
        "we will be {where} {when}",
        "i don't think {person} {verb} {object}",
        "the train leaves {city} at {time}",
    ],
}


def expand(rule: str, generator: torch.Generator) -> str:
    """One random text of a rule of the full grammar."""
    alternatives = RULES[rule]
    if callable(alternatives):
        return alternatives(generator)
    return re.sub(r"\{(\w+)\}", lambda match: expand(match[1], generator), _choice(generator, alternatives))


def sentence(generator: torch.Generator, vocabulary: Vocabulary) -> str:
    """One random sentence: lower-case letters, single spaces and apostrophes.

    Raises:
        ValueError: the vocabulary is neither ``small`` nor ``full``.
    """
    if vocabulary == "small":
        return " ".join(_choice(generator, SMALL) for _ in range(_integer(generator, *_SMALL_WORDS_PER_SENTENCE)))
    if vocabulary == "full":
        return expand("sentence", generator)
    raise UsageError(f"data.vocabulary must be small or full, got {vocabulary!r}")
