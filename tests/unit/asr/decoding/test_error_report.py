"""Laws of the errs file: its sections add up to its totals, and the texts can be read back from its details."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.error_report import NO_WORD, format_errors
from asr.decoding.wer import score

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=7).map(" ".join)
SETS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4).map(
    lambda pairs: {f"u{index}": pair for index, pair in enumerate(pairs)}
)


def sections(report: str) -> dict[str, list[str]]:
    """Lines of each section by its title."""
    blocks = [block.split("\n") for block in report.rstrip("\n").split("\n\n")]
    return {lines[0].partition(":")[0]: [line for line in lines[1:] if line] for lines in blocks}


@settings(max_examples=60)
@given(SETS)
def test_texts_can_be_read_back_from_the_details(texts: dict[str, tuple[str, str]]) -> None:
    for line in sections(format_errors(texts))["PER-UTT DETAILS"]:
        name, _, details = line.partition(":\t")
        sides = [
            " ".join(re.sub(r"\(([^()]*)->([^()]*)\)", choice, details).replace(NO_WORD, " ").split())
            for choice in (r"\1", r"\2")
        ]
        assert tuple(sides) == texts[name]


@settings(max_examples=60)
@given(SETS)
def test_sections_add_up_to_the_totals(texts: dict[str, tuple[str, str]]) -> None:
    report = format_errors(texts)
    totals = score({name: pair[0] for name, pair in texts.items()}, {name: pair[1] for name, pair in texts.items()})
    found = sections(report)
    sums = [
        sum(int(line.split()[0]) for line in found[title]) for title in ("INSERTIONS", "DELETIONS", "SUBSTITUTIONS")
    ]
    assert sums == [totals.insertions, totals.deletions, totals.substitutions]
    words = [list(map(int, line.split()[1:])) for line in found["PER-WORD STATS"]]
    correct, _, in_reference, in_hypothesis = (sum(row[column] for row in words) for column in range(4))
    assert correct == totals.reference_words - totals.deletions - totals.substitutions
    assert in_reference == totals.reference_words
    assert in_hypothesis == correct + totals.substitutions + totals.insertions
    assert all(errors == reference + hypothesis - 2 * right for right, errors, reference, hypothesis in words)
    assert f"over {totals.reference_words} reference words ({correct} correct)" in report
