"""The comparison: differences to the baseline, and intervals that are those of a paired evaluation."""

import re
from dataclasses import replace

import pytest

from asr.decoding.bootstrap import REPLICATIONS
from asr.decoding.comparison import compare
from asr.decoding.wer import count_errors
from asr.reporting import text
from asr.reporting.comparison import comparison, paired_interval
from asr.reporting.run import Transcript, read_run


def rows_of(page: str) -> list[list[str]]:
    """Texts of the cells of the first table, row by row; a remark after a bar."""
    table = page[: page.index("</table>")]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
    return [
        [re.sub(r"<[^>]*>", "|", cell).strip("|") for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in rows
    ]


def transcripts(*hypotheses: str) -> tuple[Transcript, ...]:
    reference = ["a", "b", "c", "d"]
    return tuple(Transcript(f"u{i}", tuple(reference), tuple(each.split())) for i, each in enumerate(hypotheses))


def test_the_interval_of_a_difference_is_that_of_a_paired_evaluation() -> None:
    ours = transcripts("a b c d", "a b c", "a x c d", "a b c d")
    others = transcripts("a b d", "a b c", "x x c d", "a b c d e")
    counts = [
        {each.utterance_id: count_errors(" ".join(each.reference), " ".join(each.hypothesis)) for each in side}
        for side in (ours, others)
    ]
    assert paired_interval(ours, others) == compare(counts[0], counts[1], replications=REPLICATIONS, seed=0).interval


def test_other_utterances_or_texts_have_no_paired_interval() -> None:
    ours = transcripts("a b c d", "a b")
    assert paired_interval(ours, ours[:1]) is None
    assert paired_interval(ours, (replace(ours[0], reference=("x", "b", "c", "d")), ours[1])) is None
    assert paired_interval((), ()) is None


@pytest.mark.parametrize("baseline", [0, 1])
def test_figures_stand_over_their_differences_to_the_baseline(make_run, baseline: int) -> None:
    runs = [read_run(make_run("one", learners=2)), read_run(make_run("two", speed=1.5, learners=4))]
    header, *rows = rows_of(comparison(runs, baseline))
    columns = [dict(zip(header, row, strict=True)) for row in rows]
    own, other = columns[baseline], columns[1 - baseline]
    assert own["run"] == f"{baseline + 1}. {runs[baseline].name}|baseline"
    assert (own["backend"], own["learners"]) == ("dpsgd", str(runs[baseline].learners))
    assert own["WER test · greedy"] == "3.12\u202f%|2.61 – 3.68\u202f%"
    assert "|" not in own["wall time"]
    ends = [runs[i].most("wall_seconds") for i in (1 - baseline, baseline)]
    assert other["wall time"] == f"{text.duration(ends[0])}|{text.ratio(*ends)}"
    assert other["WER test · greedy"].endswith("|±0.00 (±0.00 to ±0.00)")
    assert own["at step"] == other["at step"].removesuffix("|±0")
    assert other["at step"] != own["at step"]


def test_what_a_run_lacks_is_a_dash(make_run) -> None:
    runs = [read_run(make_run("one")), replace(read_run(make_run("two", utterances=0)), config={}, rows={})]
    header, _, row = rows_of(comparison(runs, 0))
    cells = dict(zip(header, row, strict=True))
    assert {cells[key] for key in header[1:] if key != "learners"} == {"–"}


def test_only_clear_differences_are_coloured(make_run) -> None:
    one = read_run(make_run("one", utterances=60))
    result = one.results[1]
    perfect = tuple(replace(each, hypothesis=each.reference) for each in result.transcripts)
    better = replace(one, name="two", results=[replace(result, wer=0.0, transcripts=perfect)])
    assert 'class="aside better"' in comparison([one, better], 0)
    assert 'class="aside worse"' in comparison([one, better], 1)
    assert "aside better" not in comparison([one, replace(one, name="same")], 0)
