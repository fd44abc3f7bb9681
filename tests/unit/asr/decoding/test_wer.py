"""Error counts on cases counted by hand."""

import dataclasses
import math

import pytest

from asr.decoding.wer import ErrorCounts, count_errors, score

REFERENCES = {"a": "the cat sat down", "b": "on the mat", "c": "yes"}
HYPOTHESES = {"a": "the bat sat", "b": "on the red mat", "c": "yes"}  # 1 sub and 1 del; 1 ins; none


@pytest.mark.parametrize(
    ("reference", "hypothesis", "insertions", "deletions", "substitutions"),
    [
        ("one two three", "one two three", 0, 0, 0),
        ("one two three", "one three", 0, 1, 0),
        ("one two", "one and two", 1, 0, 0),
        ("one two", "one too", 0, 0, 1),
        ("one two", "", 0, 2, 0),
        ("", "one two", 2, 0, 0),
        ("", "", 0, 0, 0),
        (" one   two ", "one two", 0, 0, 0),
    ],
)
def test_counts(reference: str, hypothesis: str, insertions: int, deletions: int, substitutions: int) -> None:
    counts = count_errors(reference, hypothesis)
    assert (counts.insertions, counts.deletions, counts.substitutions) == (insertions, deletions, substitutions)
    assert counts.reference_words == len(reference.split())
    assert counts.wrong_utterances == (counts.errors > 0)


def test_characters_count_the_space_between_words() -> None:
    counts = count_errors("ab cd", "abcx")
    assert (counts.character_errors, counts.reference_characters) == (2, 5)
    assert counts.cer == pytest.approx(0.4)


def test_counts_of_a_set() -> None:
    counts = score(REFERENCES, HYPOTHESES)
    assert (counts.insertions, counts.deletions, counts.substitutions) == (1, 1, 1)
    assert (counts.reference_words, counts.utterances) == (8, 3)
    assert counts.wer == pytest.approx(3 / 8)
    assert counts.sentence_error_rate == pytest.approx(2 / 3)


def test_counts_of_learners_add_up() -> None:
    shares = [score({name: REFERENCES[name]}, {name: HYPOTHESES[name]}) for name in REFERENCES]
    assert sum(shares, ErrorCounts()) == score(REFERENCES, HYPOTHESES)
    columns = zip(*map(dataclasses.astuple, shares), strict=True)  # as an all-reduce would
    assert ErrorCounts(*map(sum, columns)) == score(REFERENCES, HYPOTHESES)


def test_rates_over_no_words() -> None:
    assert score({}, {}).wer == 0.0
    assert count_errors("", "").wer == 0.0
    assert count_errors("", "word").wer == math.inf


@pytest.mark.parametrize(("lonely", "side"), [("references", 0), ("hypotheses", 1)])
def test_refuses_texts_without_a_counterpart(lonely: str, side: int) -> None:
    texts = [dict(REFERENCES), dict(HYPOTHESES)]
    texts[side]["extra"] = "word"
    with pytest.raises(ValueError, match=f"'extra' is only among the {lonely}"):
        score(*texts)
