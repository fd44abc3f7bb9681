"""The page of a run: whole, from little, from hostile input, and the same each time."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from asr.reporting.page import VOID
from asr.reporting.report import report
from asr.reporting.run import RunRecord, Transcript, read_run
from asr.reporting.script import SCRIPT

HOSTILE = '<script>alert("1")</script>'


class Checker(HTMLParser):
    """A page as a browser reads it: its text, ids, references; elements must close in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids, self.references, self.fetched, self.text, self.names, self.open = [], [], [], "", [], []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, name, attributes):
        values = dict(attributes)
        self.names.append(name)
        if name not in VOID:
            self.open.append(name)
        self.ids += [values["id"]] if "id" in values else []
        links = [values[key] for key in ("href", "xlink:href", "src") if key in values]
        self.references += [link[1:] for link in links if link.startswith("#")]
        self.references += re.findall(r"url\(#([^)]*)\)", values.get("clip-path", ""))
        self.references += values.get("aria-labelledby", "").split()
        self.fetched += [link for link in links if not link.startswith(("#", "data:"))]
        assert not any(key.startswith("on") for key in values)
        assert name != "script" or not attributes

    def handle_startendtag(self, name, attributes):
        self.handle_starttag(name, attributes)
        self.handle_endtag(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data


def check(page: str) -> Checker:
    """What every page must be: well formed, with ids that differ and targets that exist, fetching nothing."""
    found = Checker(page)
    assert len(set(found.ids)) == len(found.ids)
    assert set(found.references) <= set(found.ids)
    assert found.fetched == []
    assert not {"link", "iframe", "img", "object"} & set(found.names)
    assert found.names.count("script") == 1
    assert page.count(f"<script>{SCRIPT}</script>") == 1
    assert "@import" not in page
    return found


def titles(page: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", page)


def test_a_whole_run_has_every_part(make_run, make_lattice) -> None:
    record = read_run(make_run("demo", learners=2))
    page = report(record, [make_lattice(), make_lattice("two letters", utterance_id="test-0002")])
    found = check(page)
    assert titles(page) == [
        "Results", "Training", "Time and throughput", "Learners", "Errors", "Alignments", "Other figures", "Configuration",
        "Environment",
    ]  # fmt: skip
    for said in (
        "3.12\u202f%",
        "2.61 – 3.68\u202f%",
        "2 learners",
        "dpsgd",
        "commit 55ace55d0c+",
        "19\u202f200",
    ):
        assert said in found.text
    assert {"Training loss", "Word error rate", "Learning rate", "Throughput", "Traffic"} <= set(
        re.findall(r"<h3>([^<]*)</h3>", page)
    )
    assert "pruning/sparsity" in found.text  # a figure that no chart was made for
    assert "seven quite boats" in found.text


def test_the_same_run_gives_the_same_page(make_run, make_lattice) -> None:
    folder = make_run()
    assert report(read_run(folder), [make_lattice()]) == report(read_run(folder), [make_lattice()])


def test_the_page_is_small_whatever_the_length_of_the_run(make_run) -> None:
    assert len(report(read_run(make_run(steps=20000, learners=3)))) < 400_000


def test_a_run_that_was_never_evaluated(make_run) -> None:
    folder = make_run(utterances=0, steps=100)
    (folder / "summary.json").unlink()
    page = report(read_run(folder))
    check(page)
    assert "Not evaluated yet" in page
    assert "Errors" not in titles(page)


def test_without_results_the_headline_shows_the_latest_evaluation(make_run) -> None:
    page = report(read_run(make_run(utterances=0, steps=600)))
    assert re.search(r"WER, dev</dt>.*?while training; best", page)


def test_a_configuration_alone_still_makes_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    found = check(report(read_run(tmp_path)))
    assert "seed: 1" in found.text


def test_metrics_alone_still_make_a_page(make_run) -> None:
    folder = make_run(utterances=0)
    (folder / "config.yaml").unlink()
    (folder / "summary.json").unlink()
    page = report(read_run(folder))
    check(page)
    assert titles(page) == ["Results", "Training", "Time and throughput", "Learners", "Other figures"]


@pytest.mark.parametrize("value", ["NaN", None, "Infinity"])
def test_figures_that_are_no_numbers_leave_gaps(make_run, value) -> None:
    folder = make_run(learners=1, steps=300, utterances=0)
    path = folder / "metrics" / "0.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[5:12]:
        row["train/loss"] = value
    for row in rows:
        row["train/grad_norm"] = value  # never a number: no chart
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report(read_run(folder))
    check(page)
    assert "Training loss</h3>" in page
    assert "Gradient norm</h3>" not in page


def test_one_row_is_enough(make_run) -> None:
    check(report(read_run(make_run(steps=10, learners=1, utterances=0))))


def test_hostile_names_and_words_are_text(make_run, make_lattice) -> None:
    record = read_run(make_run())
    words = tuple(HOSTILE.split())
    result = replace(
        record.results[0], set_name=HOSTILE, decode=HOSTILE, transcripts=(Transcript(HOSTILE, words, ("x",)),)
    )
    rows = {0: [dict(row, **{f"x/{HOSTILE}": 1.0, f"eval/{'<b>'}/wer": 0.5}) for row in record.rows[0]]}
    hostile = RunRecord(
        name=HOSTILE, rows=rows, results=(result,), config_text=HOSTILE, config={HOSTILE: HOSTILE, "backend._target_": HOSTILE},
        summary={"environment": {HOSTILE: HOSTILE, "commit": HOSTILE}},
    )  # fmt: skip
    for page in (report(hostile, [make_lattice(HOSTILE, utterance_id=HOSTILE)]), report([hostile, record])):
        found = check(page)
        assert found.text.count(HOSTILE) > 5
        assert "b" not in found.names


def test_several_runs_are_compared(make_run) -> None:
    runs = [make_run("one"), make_run("two", speed=1.5, backend="allreduce.AllReduce"), make_run("three", utterances=0)]
    page = report([read_run(run) for run in runs])
    found = check(page)
    assert titles(page)[0] == "Comparison"
    assert "Training loss over time" in found.text
    settings = page[
        page.index("Settings that differ</h3>") : page.index("<h2", page.index("Settings that differ</h3>"))
    ]
    assert "model.encoder.dimension" in settings
    assert re.findall(r">backend</th><td[^>]*>dpsgd</td><td[^>]*>allreduce</td><td[^>]*>dpsgd</td>", settings)
    assert "optimizer.lr" not in settings
    assert settings.count('<td data-run="1">256</td>') == 1


def test_many_learners_are_a_band_and_one_bar(make_run) -> None:
    page = report(read_run(make_run(learners=20, steps=60, utterances=0)))
    check(page)
    assert "fill-opacity: 0.2" in page
    assert "mean of 20" in page


def test_no_run_is_no_report() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        report([])
