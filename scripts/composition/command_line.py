"""Command lines in two parts: what a script takes itself, then the name of another entry point and that one's arguments."""

from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from typing import NoReturn

from distributed.errors import UsageError


class Parser(ArgumentParser):
    """Parses the options of scripts/<name>.py; a wrong one is an error of one line."""

    def __init__(self, name: str) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.name = name
        self.add_argument("-h", "--help", action="store_true")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python scripts/{self.name}.py --help")


def split_at(
    arguments: Sequence[str], entry_points: Collection[str]
) -> tuple[Sequence[str], str | None, Sequence[str]]:
    """The arguments before the first name of an entry point, that name, and those after it; None where there is none."""
    place = next((index for index, each in enumerate(arguments) if each in entry_points), None)
    if place is None:
        return arguments, None, []
    return arguments[:place], arguments[place], arguments[place + 1 :]
