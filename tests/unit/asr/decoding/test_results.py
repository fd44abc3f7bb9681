"""The files of an evaluated set on a case counted by hand, and the table of several."""

import json
import math
from pathlib import Path

import pytest

from asr.decoding.comparison import compare
from asr.decoding.results import score_set, summary_table, write_comparison, write_results
from asr.runs.run_folder import Evaluation

REFERENCES = {"a": "the cat sat down", "b": "on the mat", "c": "yes"}
HYPOTHESES = {"a": "the bat sat", "b": "on the red mat", "c": "yes"}  # 1 sub and 1 del; 1 ins; none
SPEAKERS = {"a": "anna", "b": "bert", "c": "anna"}


def test_files_of_a_set(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "dev"
    result = write_results(Evaluation(folder, "greedy"), REFERENCES, HYPOTHESES, SPEAKERS)
    assert result.line.startswith("[dev] %WER 37.50% [3 / 8, 1 ins, 1 del, 1 sub ]")

    figures = json.loads((folder / "wer-greedy.json").read_text())
    assert figures["wer"] == pytest.approx(0.375)
    assert [figures[key] for key in ("insertions", "deletions", "substitutions")] == [1, 1, 1]
    assert (figures["reference_words"], figures["utterances"]) == (8, 3)
    low, high = figures["wer_interval"]
    assert 0.0 <= low < 0.375 < high
    assert "checkpoint" not in figures
    record = {"checkpoint": "step-00000100", "text": {"case": "lower"}}
    write_results(Evaluation(folder, "greedy"), REFERENCES, HYPOTHESES, SPEAKERS, record)
    assert json.loads((folder / "wer-greedy.json").read_text()) == figures | record

    text = (folder / "wer-greedy.txt").read_text()
    assert text.splitlines()[0] == result.line
    assert "%SER 66.67% of 3 utterances" in text
    assert text.index("anna   40.00% [2 / 5]") < text.index("bert   33.33% [1 / 3]")

    recogs = (folder / "recogs-greedy.txt").read_text().splitlines()
    assert recogs[:2] == ["a:\tref=['the', 'cat', 'sat', 'down']", "a:\thyp=['the', 'bat', 'sat']"]


def test_errors_file_has_the_sections_of_icefall(tmp_path: Path) -> None:
    write_results(Evaluation(tmp_path, "beam8"), REFERENCES, HYPOTHESES, SPEAKERS)
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
    assert section("PER-SPEAKER STATS:") == ["anna   40.00% 2 0 1 1 5 1 2", "bert   33.33% 1 1 0 0 3 1 1"]
    assert section("PER-UTT STATS:") == ["a   50.00% 2 0 1 1 4 1 1", "b   33.33% 1 1 0 0 3 1 1"], "c has no error"


def test_neighbouring_errors_are_shown_as_one(tmp_path: Path) -> None:
    write_results(Evaluation(tmp_path, "greedy"), {"a": "one two three four"}, {"a": "one too tree for five"})
    assert "a:\tone (two three four->too tree for five)" in (tmp_path / "errs-greedy.txt").read_text()


def test_a_set_without_reference_words_is_valid_json(tmp_path: Path) -> None:
    write_results(Evaluation(tmp_path, "greedy"), {"noise": ""}, {"noise": "hello there"})
    figures = json.loads((tmp_path / "wer-greedy.json").read_text())
    assert figures["wer"] is None
    assert figures["insertions"] == 2
    assert "inf" in (tmp_path / "wer-greedy.txt").read_text()


def test_a_set_of_unknown_speakers_has_no_section_for_them(tmp_path: Path) -> None:
    write_results(Evaluation(tmp_path, "greedy"), REFERENCES, HYPOTHESES, {"a": "", "b": ""})
    assert "PER-SPEAKER STATS: speaker" not in (tmp_path / "errs-greedy.txt").read_text()
    assert "SPEAKERS" not in (tmp_path / "wer-greedy.txt").read_text()


def test_table_of_several_sets() -> None:
    results = [score_set("dev", REFERENCES, HYPOTHESES), score_set("test-clean", REFERENCES, REFERENCES)]
    header, dev, clean, end = summary_table(results).split("\n")
    assert len(header) == len(dev) == len(clean)
    assert not end
    assert dev.split() == [
        "dev", "37.50", *(f"{100 * each:.2f}" for each in results[0].interval[:1]), "-",
        f"{100 * results[0].interval[1]:.2f}", "66.67", f"{100 * results[0].total.cer:.2f}",
        "3", "1", "1", "1", "8", "3",
    ]  # fmt: skip
    assert clean.split()[:2] == ["test-clean", "0.00"]


def test_a_comparison_is_saved_and_reported_in_one_line(tmp_path: Path) -> None:
    ours, theirs = score_set("dev", REFERENCES, REFERENCES), score_set("dev", REFERENCES, HYPOTHESES)
    comparison = compare(ours.counts, theirs.counts, replications=100, seed=0)
    line = write_comparison(Evaluation(tmp_path, "greedy"), "base", comparison, {"checkpoint": "step-1"})
    assert "\n" not in line
    assert "against base: %WER 0.00% - 37.50% = -37.50%" in line
    assert "2 better, 0 worse, 1 equal" in line
    figures = json.loads((tmp_path / "against-base-greedy.json").read_text())
    assert figures["difference"] == pytest.approx(-0.375)
    assert figures["interval"] == list(comparison.interval)
    assert (figures["against"], figures["checkpoint"]) == ("base", "step-1")


def test_a_comparison_without_reference_words_is_valid_json(tmp_path: Path) -> None:
    noise = score_set("noise", {"a": ""}, {"a": "hello"})
    comparison = compare(noise.counts, noise.counts, replications=10, seed=0)
    assert math.isnan(comparison.difference)
    write_comparison(Evaluation(tmp_path, "greedy"), "base", comparison, {})
    assert json.loads((tmp_path / "against-base-greedy.json").read_text())["interval"] == [None, None]
