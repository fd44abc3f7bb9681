"""Errors in transcripts: found, ranked, counted and shown."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.wer import count_errors
from asr.reporting.run import Transcript
from asr.reporting.transcripts import Edit, align, confusion_tables, confusions, marked, utterance_list, worst

WORDS = st.lists(st.sampled_from(["a", "b", "c", "<d>", "*"]), max_size=8)


def said(utterance_id: str, reference: str, hypothesis: str) -> Transcript:
    return Transcript(utterance_id, tuple(reference.split()), tuple(hypothesis.split()))


SOME = [
    said("u1", "the cat sat", "the hat sat"),
    said("u2", "the cat", "the hat"),
    said("u3", "one two three", "one two three"),
    said("u4", "a very long sentence of words", "a very sentence words now"),
    said("u5", "", "noise"),
]


@given(WORDS, WORDS)
def test_an_alignment_holds_both_texts_and_as_many_errors_as_are_scored(reference, hypothesis) -> None:
    aligned = align(Transcript("u", tuple(reference), tuple(hypothesis)))
    assert [edit.reference for edit in aligned.edits if edit.reference] == reference
    assert [edit.hypothesis for edit in aligned.edits if edit.hypothesis] == hypothesis
    counts = count_errors(" ".join(reference), " ".join(hypothesis))
    assert aligned.errors == counts.errors
    kinds = Counter(edit.kind for edit in aligned.edits)
    assert (kinds["insertion"], kinds["deletion"], kinds["substitution"]) == (
        counts.insertions, counts.deletions, counts.substitutions,
    )  # fmt: skip


def test_the_worst_come_first_and_right_ones_not_at_all() -> None:
    assert [aligned.transcript.utterance_id for aligned in worst(SOME, 10)] == ["u4", "u5", "u2", "u1"]
    assert len(worst(SOME, 2)) == 2


def test_confusions_are_counted_by_kind() -> None:
    found = confusions(SOME, 10)
    assert found["substitution"][0] == (Edit("cat", "hat"), 2)
    assert {edit.reference for edit, _ in found["deletion"]} == {"long", "of"}
    assert {edit.hypothesis for edit, _ in found["insertion"]} == {"noise", "now"}
    assert [len(pairs) for pairs in confusions(SOME, 1).values()] == [1, 1, 1]


def test_errors_are_marked_in_the_text() -> None:
    edits = align(said("u", "the <cat> sat", "the hat sat down")).edits
    assert marked(edits) == "the <del>&lt;cat&gt;</del> <ins>hat</ins> sat <ins>down</ins>"


def test_lists_and_tables_escape_transcripts() -> None:
    hostile = [said("<script>1</script>", "<script>alert(1)</script> x", "x <img/onerror=1>")]
    markup = utterance_list(worst(hostile, 5)) + confusion_tables(confusions(hostile, 5))
    assert "<script" not in markup
    assert "<img" not in markup
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in markup
