"""JSON from elsewhere is read within limits of nesting, digits and characters."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.foreign.files import ForeignError
from asr.foreign.json_text import DEEPEST, MOST_DIGITS, parse_json, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab\u00e9"), inner),
    max_leaves=20,
)  # fmt: skip


@given(value=VALUES, ascii_alone=st.booleans())
def test_what_json_writes_is_read_as_json_reads_it(value: Any, ascii_alone: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_alone)
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested deeper than 64 levels"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "nested deeper than 64 levels"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested deeper than 64 levels"),
        ("9" * 5000, "an integer of 5000 digits, where 30 are allowed"),
        ('{"a": 1' + "0" * MOST_DIGITS + "}", "an integer of 31 digits"),
        ('"\\ud800"', "a text has U+D800"),
        ('{"\\udfff": 1}', "a text has U+DFFF"),
        ('[{"a": "x\\u0000"}]', "a text has U+0000"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("+", r"\+")) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ForeignError, match=r"a\.json: "):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text", ["[" * DEEPEST + "]" * DEEPEST, '"' + "9" * 99 + '"', "9" * MOST_DIGITS, '"\\ud83d\\ude00"', "1"]
)
def test_what_is_within_the_limits_is_read(text: str) -> None:
    assert parse_json(text) == json.loads(text)


def test_many_values_beside_each_other_are_not_deep() -> None:
    text = json.dumps([[1]] * 500)
    assert parse_json(text) == [[1]] * 500


def test_a_file_must_hold_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ForeignError, match=r"a\.json: must hold a JSON object, got list"):
        read_json(tmp_path / "a.json")
