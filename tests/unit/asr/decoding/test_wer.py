"""Error counts and their files on cases counted by hand."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from asr.decoding.wer import ErrorCounts, bootstrap_interval, count_errors, score, write_results

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


def test_interval_of_equal_utterances_is_a_point() -> None:
    assert bootstrap_interval([1] * 5, [4] * 5, replications=50, seed=0) == (0.25, 0.25)
    low, high = bootstrap_interval([0] * 5, [100] * 5, replications=50, seed=0)
    assert low == 0.0
    assert (1 - high) ** 500 == pytest.approx(0.025), "no error among 500 words does not mean that there are none"


def test_interval_covers_as_often_as_it_says() -> None:
    """Against the normal approximation of a mean of 400 coin flips with one word each."""
    errors = [1] * 100 + [0] * 300
    low, high = bootstrap_interval(errors, [1] * 400, replications=4000, seed=0)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_interval_is_repeatable() -> None:
    arguments = ([0, 3, 1, 0, 2], [4, 5, 3, 2, 6])
    first = bootstrap_interval(*arguments, replications=100, seed=1)
    assert first == bootstrap_interval(*arguments, replications=100, seed=1)
    assert first != bootstrap_interval(*arguments, replications=100, seed=2)


def test_files_of_a_set(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "dev"
    summary = write_results(folder, "greedy", REFERENCES, HYPOTHESES, {"a": "anna", "b": "bert", "c": "anna"})
    assert summary.startswith("[dev] %WER 37.50% [3 / 8, 1 ins, 1 del, 1 sub ]")

    figures = json.loads((folder / "wer-greedy.json").read_text())
    assert figures["wer"] == pytest.approx(0.375)
    assert [figures[key] for key in ("insertions", "deletions", "substitutions")] == [1, 1, 1]
    assert (figures["reference_words"], figures["utterances"]) == (8, 3)
    low, high = figures["wer_interval"]
    assert 0.0 <= low < 0.375 < high
    assert "checkpoint" not in figures
    write_results(folder, "greedy", REFERENCES, HYPOTHESES, {"a": "anna", "b": "bert", "c": "anna"}, "step-00000100")
    assert json.loads((folder / "wer-greedy.json").read_text()) == figures | {"checkpoint": "step-00000100"}

    text = (folder / "wer-greedy.txt").read_text()
    assert text.splitlines()[0] == summary
    assert text.index("anna   40.00% [2 / 5]") < text.index("bert   33.33% [1 / 3]")

    recogs = (folder / "recogs-greedy.txt").read_text().splitlines()
    assert recogs[:2] == ["a:\tref=['the', 'cat', 'sat', 'down']", "a:\thyp=['the', 'bat', 'sat']"]


def test_errors_file_has_the_sections_of_icefall(tmp_path: Path) -> None:
    write_results(tmp_path, "beam8", REFERENCES, HYPOTHESES)
    lines = (tmp_path / "errs-beam8.txt").read_text().splitlines()
    assert lines[0] == "%WER = 37.50"
    assert lines[1] == ("Errors: 1 insertions, 1 deletions, 1 substitutions, over 8 reference words (6 correct)")

    def section(title: str) -> list[str]:
        start = next(index for index, line in enumerate(lines) if line.startswith(title)) + 1
        return lines[start : next((i for i in range(start, len(lines)) if not lines[i]), len(lines))]

    assert section("PER-UTT DETAILS:") == [
        "a:\tthe (cat->bat) sat (down->*)",
        "b:\ton the (*->red) mat",
        "c:\tyes",
    ]
    assert section("SUBSTITUTIONS:") == ["1   cat -> bat"]
    assert section("DELETIONS:") == ["1   down"]
    assert section("INSERTIONS:") == ["1   red"]
    words = section("PER-WORD STATS:")
    assert words[0] == "bat   0 1 0 1"  # never right, once wrong, in no reference, in one hypothesis
    assert "the   2 0 2 2" in words


def test_neighbouring_errors_are_shown_as_one(tmp_path: Path) -> None:
    write_results(tmp_path, "greedy", {"a": "one two three four"}, {"a": "one too tree for five"})
    assert "a:\tone (two three four->too tree for five)" in (tmp_path / "errs-greedy.txt").read_text()


def test_a_set_without_reference_words_is_valid_json(tmp_path: Path) -> None:
    write_results(tmp_path, "greedy", {"noise": ""}, {"noise": "hello there"})
    figures = json.loads((tmp_path / "wer-greedy.json").read_text())
    assert figures["wer"] is None
    assert figures["insertions"] == 2
    assert "inf" in (tmp_path / "wer-greedy.txt").read_text()
