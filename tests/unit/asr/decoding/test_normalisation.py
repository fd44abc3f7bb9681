"""Texts before they are scored: what is replaced, what is removed, and that no word is ever cut."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.normalisation import TextNormalisation


def normalise(text: str, case: str = "keep", replace: tuple[tuple[str, str], ...] = (), remove: str = "") -> str:
    return TextNormalisation(case=case, replace=list(replace), remove=remove)(text)


@given(st.text())
def test_nothing_happens_by_default_but_to_white_space(text: str) -> None:
    """Characters are composed, which tokenizers do anyway."""
    assert normalise(text).split() == unicodedata.normalize("NFC", text).split()


@pytest.mark.parametrize(
    ("text", "replace", "expected"),
    [
        ("uh huh uh uh yes uh", (("uh", ""),), "huh yes"),
        ("Twenty-five", (("-", " "),), "Twenty five"),
        ("mister  smith's mister", (("mister", "mr"),), "mr smith's mr"),
        ("don't", (("don", "x"), ("t", "x")), "don't"),
        ("it's john's", (("'s", " is"),), "it is john is"),
        ("all right alright", (("all right", "alright"),), "alright alright"),
        ("a", (("a", "b"), ("b", "c")), "c"),
        ("cafe\u0301 x", (("café", "bar"),), "bar x"),
        ("a.b", ((".", r"\1"),), r"a\1b"),
    ],
)
def test_replacements(text: str, replace: tuple[tuple[str, str], ...], expected: str) -> None:
    assert normalise(text, replace=replace) == expected


def test_order_is_case_then_replacements_then_removal() -> None:
    assert normalise("Mister, STOP!", case="lower", replace=(("mister,", "mr!"),), remove="!") == "mr stop"
    assert normalise("straße", case="upper") == "STRASSE"


@pytest.mark.parametrize(
    ("replace", "remove", "message"),
    [((("", "x"),), "", "text.replace: the first text"), ((), ". ", "text.remove='. ': white space")],
)
def test_what_would_make_no_sense_is_refused(replace: tuple[tuple[str, str], ...], remove: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise("", replace=replace, remove=remove)
