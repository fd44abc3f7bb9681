"""What is recognised does not depend on which entry point asks, nor on how it groups what it asks about."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr.data.tokenizer import load_tokenizer
from asr.reporting.run import read_transcripts
from distributed.errors import UsageError
from scripts.align import main as align
from scripts.cut import main as cut
from scripts.evaluate import main as evaluate
from scripts.make_nbest import main as make_nbest
from scripts.report import main as report
from scripts.transcribe import main as transcribe
from scripts.tune_fusion import main as tune_fusion

Run = Callable[..., Path]
BEAM = ("decode=beam", "decode.beam=3", "decode.n_best=3")


def transcribed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Texts by the names of files."""
    capsys.readouterr()
    transcribe([*arguments])
    lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    return {Path(path).stem: text for path, text in lines}


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_every_entry_point_finds_the_same(
    precision: str,
    random_run: Run,
    tiny_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = random_run("run", f"trainer.precision={precision}")
    tokenizer = load_tokenizer(run / "tokenizer")
    evaluate([f"run={run}", "sets=[dev]", *BEAM, "unit_utterances=1"])
    shown = capsys.readouterr()
    assert f"beam3 search, {precision} on cpu" in shown.out
    record = json.loads((run / "eval" / "dev" / "wer-beam3.json").read_text())
    assert (record["precision"], record["device"]) == (precision, "cpu")
    evaluated = {
        each.utterance_id: " ".join(each.hypothesis)
        for each in read_transcripts(run / "eval" / "dev" / "recogs-beam3.txt")
    }
    assert len(set(evaluated.values())) > 3, "the model says different things"

    files = [str(tiny_corpus / f"{name}.wav") for name in evaluated]
    assert transcribed(capsys, f"run={run}", *BEAM, *files, "unit_utterances=4") == evaluated

    make_nbest([f"run={run}", "split=dev", "hypotheses=3", "decode.beam=3", f"out={tmp_path / 'lists'}"])
    rows = map(json.loads, (tmp_path / "lists" / "00000.jsonl").read_text().splitlines())
    assert {row["id"]: tokenizer.decode(row["hypotheses"][0]) for row in rows} == evaluated

    report([str(run), *BEAM[:2], "set=dev", "lattices=6"])
    page = (run / "report.html").read_text().partition('id="alignments"')[2].partition("</section>")[0]
    assert all(name in page and (not text or text in page) for name, text in evaluated.items())


def test_lists_that_fusion_is_tuned_on_begin_with_what_is_evaluated(random_run: Run, random_lm_run: Run) -> None:
    """Without the weights of language models their rate is that of the search; they are computed in one pass with the lists."""
    run, lm = random_run("run"), random_lm_run("lm")
    evaluate([f"run={run}", "sets=[dev]", *BEAM])
    grid = ("external_weights=[0.0]", "label_bonuses=[0.0]", "unit_utterances=4")
    tune_fusion([f"run={run}", "set=dev", *BEAM[1:], f"decode.fusion.external={lm}", *grid])
    tuned = json.loads((run / "eval" / "dev" / "fusion-beam3-lm.json").read_text())["settings"]
    assert [each["wer"] for each in tuned] == [
        pytest.approx(json.loads((run / "eval" / "dev" / "wer-beam3.json").read_text())["wer"])
    ]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (evaluate, ["sets=[dev]"]),
        (transcribe, ["a.wav"]),
        (align, ["dev"]),
        (cut, ["dev", "out=cut"]),
        (make_nbest, []),
        (tune_fusion, ["decode.fusion.external=lm"]),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_any_work(
    main: Callable[[list[str]], None], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=r"^device=cuda: .*device may be auto, cpu or cuda: choose device=cpu$"):
        main(["run=exp/none", "device=cuda", *arguments])
    with pytest.raises(UsageError, match=r"^device=gpu: must be one of auto, cpu, cuda"):
        main(["run=exp/none", "device=gpu", *arguments])
    assert not list(tmp_path.iterdir())


def test_a_page_without_the_device_has_no_lattices(
    random_run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    report([str(random_run("run")), "device=cuda"])
    assert re.search(r"no lattices: device=cuda: .* choose device=cpu", caplog.text)
