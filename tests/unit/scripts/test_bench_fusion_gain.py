"""The gain of language models: weights are tuned on dev once, used at every beam, and compared with no language model."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from asr.decoding.wer import ErrorCounts, count_errors
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.bench import fusion_gain
from scripts.bench.fusion_gain import NONE, main
from scripts.bench.trials import Trials

RATIO = "density ratio, all over own"


def test_weights_are_tuned_once_and_used_at_every_beam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, tuned, decoded = tmp_path / "run", [], []

    def call(self: Trials, run: Path, *command: str) -> None:
        tuned.append(command)
        source = any("source" in each for each in command)
        best = {"external": 0.3, "source": 0.1 if source else 0.0, "label_bonus": 0.4}
        record = RunFolder(run).evaluation("dev", "beam8-density-ratio" if source else "beam8-lm").fusion
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"best": best}))

    def errors(self: Trials, run: Path, search: Sequence[str], fold: str) -> dict[str, ErrorCounts]:
        decoded.append(search)
        heard = "one two" if any("external=" in each for each in search) else "one"
        return {"a": count_errors("one two", heard), "b": count_errors("three", "three")}

    monkeypatch.setattr(Trials, "call", call)
    monkeypatch.setattr(Trials, "errors", errors)
    monkeypatch.setattr(fusion_gain, "made_of", lambda run, evaluated_set, ways: {"run": str(run), "ways": list(ways)})
    command = ["--run", str(run), "--lm", "own", str(tmp_path / "own"), "--lm", "all", str(tmp_path / "all")]
    command += ["--beams", "1", "4", "--kept", str(tmp_path / "kept.jsonl"), "--json", str(tmp_path / "figures.json")]
    main(command)
    assert len(tuned) == 3
    assert all({"set=dev", "decode.beam=8", "decode.n_best=8"} <= set(each) for each in tuned)
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["beam"] for row in rows] == [1] * 4 + [4] * 4
    weights = {row["way"]: row["weights"] for row in rows}
    assert weights[NONE] == {}
    assert weights["shallow, own"] == {"label_bonus": 0.4, "external_weight": 0.3}
    assert weights[RATIO] == {"label_bonus": 0.4, "external_weight": 0.3, "source_weight": 0.1}
    assert {row["way"]: row["difference"] for row in rows}["shallow, all"] == pytest.approx(-1 / 3)
    ratio = next(each for each in decoded if any("source=" in setting for setting in each))
    assert {f"decode.fusion.external={tmp_path / 'all'}", f"decode.fusion.source={tmp_path / 'own'}"} <= set(ratio)
    main(command)
    assert (len(tuned), len(decoded)) == (3, 8), "what was tuned and decoded is kept"
    with pytest.raises(UsageError, match=r"holds results of .*; choose another file, or remove it"):
        main([*command, "--lm", "third", str(tmp_path / "third")])
