"""The study of quantised word error rates: ways differ in what they say alone, post-training ones begin at the control, rows are paired."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asr.decoding.wer import ErrorCounts, count_errors
from asr.parts import plain
from distributed.errors import UsageError
from scripts.bench import compression_study, paired
from scripts.bench.compression_study import CONTROL, CORPORA, SHARED
from scripts.bench.forked import ForkedTrials
from scripts.bench.quantization_wer import WAYS, QuantizationStudy, main
from scripts.composition.compose import compose

CHANGED = {
    "sawb/max": {"weights"},
    "sawb/pact": {"inputs", "hidden"},  # what PACT is: bounds of activations that are learned
    "sawb/pact, subsampling 8 bits": {"scheme"},
    "sawb+/pact+": {"weights", "inputs", "hidden"},  # the gradients of all
    "sawb/bac": {"hidden"},
    "sawb/bac, first layer fp32": {"scheme"},
    "sawb+/bac+": {"weights", "inputs"},  # the gradients of both
}


@pytest.mark.parametrize(("name", "model"), [("fsdd", "lstm"), ("demo", "conformer")])
def test_ways_differ_from_the_control_in_the_hook_alone(name: str, model: str) -> None:
    corpus = CORPORA[name]
    settings = [*corpus.settings, *SHARED, *corpus.models[model], *corpus.further]
    control = plain(compose("train", settings))
    for way in WAYS.values():
        if way.trained and model in way.bits:
            bits = way.bits[model][0]
            other = plain(compose("train", [*settings, "+hooks=[qat_int4]", *way.written("hooks.qat_int4", bits)]))
            assert other["hooks"].pop("qat_int4")["bits"] == bits
            assert other == control


def test_every_way_of_the_ablation_differs_from_another_in_what_it_says() -> None:
    assert {name for name, way in WAYS.items() if way.differs_from is not None} == CHANGED.keys()
    for name, keys in CHANGED.items():
        way = WAYS[name]
        before = WAYS[str(way.differs_from)].settings
        assert {key for key in {*before, *way.settings} if before.get(key) != way.settings.get(key)} == keys
        assert way.changed


def test_a_pass_has_the_settings_of_its_way() -> None:
    node = plain(compose("compress", ["run=a", "passes=int4", *WAYS["post-training max"].written("passes", 3)])).get(
        "passes"
    )
    assert node is not None
    assert (node["bits"], node["weights"], node["inputs"]) == (3, "max", "max")


class Recorded(ForkedTrials):
    """Stands in for training and decoding; keeps the commands."""

    commands: list[tuple[str, tuple[str, ...]]] = []  # noqa: RUF012 - of the test

    def call(self, run: Path, *command: str) -> None:
        self.commands.append((run.name, command))

    def errors(
        self, run: Path, search: Sequence[str], fold: str, weights: Path | None = None
    ) -> dict[str, ErrorCounts]:
        bad = "post" in str(weights)
        return {"/a": count_errors("one two", "one" if bad else "one two"), "/b": count_errors("three", "three")}


def test_all_begin_at_the_start_and_passes_at_the_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression_study, "ForkedTrials", Recorded)
    monkeypatch.setattr(Recorded, "commands", [])
    monkeypatch.setattr(paired, "REPLICATIONS", 3)
    file = tmp_path / "figures.json"
    main(["--models", "lstm", "--seeds", "5", "--folder", str(tmp_path / "runs"), "--json", str(file)])
    saved: dict[str, Any] = json.loads(file.read_text())
    assert saved["figures"]["wer/lstm/control"] == 0
    assert saved["figures"]["wer_difference/lstm/post-training max, 4 bits"] == pytest.approx(1 / 3)
    assert saved["figures"]["wer_difference/lstm/sawb/bac, 3 bits"] == 0
    ablation = [row for row in saved["rows"] if row["table"] == "ablation"]
    assert {(row["way"], row["against"]) for row in ablation if row["bits"] == 3} == {
        (name, f"{WAYS[name].differs_from}, 3 bits") for name in CHANGED if "lstm" in WAYS[name].bits
    }
    folder = tmp_path / "runs" / "lstm"
    for name, command in Recorded.commands:
        begins = [each for each in command if each.startswith(("init_from=", "run="))]
        if "compress.py" in command[0]:
            assert begins == [f"run={folder / 'control-5'}"]
        elif name != "start-5":
            assert begins == [f"init_from={folder / 'start-5'}"]
            assert "seed=5" in command
    assert [name for name, _ in Recorded.commands][:2] == ["start-5", f"{CONTROL}-5"]


def test_some_ways_and_their_steps_may_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression_study, "ForkedTrials", Recorded)
    monkeypatch.setattr(Recorded, "commands", [])
    monkeypatch.setattr(paired, "REPLICATIONS", 3)
    of_corpus = ["--corpus", "librispeech", "--start", "start", "--seeds", "5", "--folder", str(tmp_path)]
    main([*of_corpus, "--ways", "sawb/pact", "--steps", "7", "--json", str(tmp_path / "figures.json")])
    assert [name for name, _ in Recorded.commands] == [f"{CONTROL}-5", "sawb-pact_4-bits-5", "sawb-pact_8-bits-5"]
    assert all("trainer.max_steps=7" in command for _, command in Recorded.commands)
    assert all("trainer.epochs=1000" in command for _, command in Recorded.commands), "steps end a run, not epochs"
    assert json.loads((tmp_path / "figures.json").read_text())["steps"] == 7
    Recorded.commands.clear()
    main([*of_corpus, "--ways", "sawb/pact, 8 bits"])
    assert [name for name, _ in Recorded.commands] == [f"{CONTROL}-5", "sawb-pact_8-bits-5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "lstm", "--start", "a"], "--models lstm: on librispeech there is conformer"),
        ([], "--corpus librispeech: its start takes hours; name the model folder"),
    ],
)
def test_what_a_corpus_has_not_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        main(["--corpus", "librispeech", *arguments])


def test_a_run_that_ends_with_an_error_is_reported_with_its_log(tmp_path: Path) -> None:
    trials = ForkedTrials(1, tmp_path, "test")
    with pytest.raises(Exception, match=r"a-1 ended with exit code 2; see .*a-1\.log"):
        trials.call(trials.run("", "a-1"), str(compression_study.REPOSITORY / "scripts/train.py"), "backend=none")
    assert "backend=none" in (tmp_path / "a-1.log").read_text()


def test_a_study_knows_its_rows() -> None:
    study = QuantizationStudy(ForkedTrials(1, Path(), "test"), CORPORA["demo"], "conformer", [], 40)
    names = [name for name, *_ in study.ways()]
    assert len(names) == len(set(names))
    assert not any("bac" in name for name in names), "a Conformer's states have no known bound"
