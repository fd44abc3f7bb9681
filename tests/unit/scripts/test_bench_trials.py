"""Benchmarks of trained runs: what is there is not done again, what is of something else is not taken for it."""

import json
import os
from pathlib import Path

import pytest
import torch

from asr.data.material import manifest_name
from asr.decoding.results import write_results
from asr.parts import build
from asr.runs.checkpoint import Retention, read_checkpoint
from asr.runs.checkpoint_folder import CheckpointFolder
from asr.runs.choice import origin_of
from asr.runs.progress import Progress
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.bench import methods, parity
from scripts.bench.trials import Trials
from scripts.composition.against import method_of
from scripts.composition.compose import compose
from tests.model_parts import NO_MODEL


class Runs:
    """Stands in for training and evaluation: one checkpoint, one utterance; keeps what was called."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.called: list[str] = []
        self.commands: list[tuple[str, ...]] = []

    def save(self, run: Path, step: int, wer: float, weight: float = 0.0) -> None:
        folder = CheckpointFolder(
            run / "checkpoints", self.world, Retention(keep_last=9, keep_best=1), "Single", 1, NO_MODEL, {}
        )
        weights = {"weight": torch.tensor([weight])}
        folder.save(Progress(global_step=step, samples=step), {"model": weights}, weights, wer)

    def evaluate(self, run: Path, checkpoint: str, *search: str, evaluated_set: str = "test") -> None:
        config = compose("evaluate", [f"run={run}", *search])
        record = origin_of([read_checkpoint(run / "checkpoints" / checkpoint)]) | method_of(config)
        write_results(
            RunFolder(run).evaluation(evaluated_set, build(config.decode).name),
            {"a": "one two"},
            {"a": "one"},
            record=record,
        )

    def call(self, _: Trials, run: Path, *command: str) -> None:
        script = next(Path(each).stem for each in command if each.endswith(".py"))
        self.called.append(script)
        self.commands.append(command)
        newest = "step-00000002" if (run / "checkpoints" / "step-00000002").is_dir() else "step-00000001"
        if script == "evaluate":
            (evaluated_set,) = (each for each in command if each.startswith("sets="))
            name = manifest_name(evaluated_set.removeprefix("sets=[").removesuffix("]"))
            search = [each for each in command if each.startswith(("decode", "text"))]
            self.evaluate(run, newest, *search, evaluated_set=name)
        elif script == "tune_fusion":
            source = any("fusion.source" in each for each in command)
            best = RunFolder(run).evaluation("dev", "beam8-density-ratio" if source else "beam8-lm").fusion
            best.parent.mkdir(parents=True, exist_ok=True)
            best.write_text(json.dumps({"best": {"external": 0.4, "source": 0.3 * source, "label_bonus": 0.1}}))
        elif script.startswith("train") and not (run / "checkpoints").is_dir():
            self.save(run, 1, wer=0.5)


@pytest.fixture
def runs(alone: World, monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs(alone)
    monkeypatch.setattr(Trials, "call", lambda *arguments: made.call(*arguments))
    return made


def test_training_is_always_run_and_evaluations_count_for_their_checkpoint(runs: Runs, tmp_path: Path) -> None:
    trials = Trials(1, tmp_path, "test")
    run = trials.run("", "dpsgd-1")

    def called() -> list[str]:
        runs.called.clear()
        trials.train(run, "seed=1")
        assert trials.errors(run, [], "")["/a"].deletions == 1
        return list(runs.called)

    assert called() == ["train", "evaluate"]
    assert called() == ["train"]
    runs.save(run, 2, wer=0.1)
    assert called() == ["train", "evaluate"], "there is a better checkpoint"
    runs.evaluate(run, "step-00000001")
    assert called() == ["train", "evaluate"], "the figures are of another checkpoint"
    for each in (run / "checkpoints").rglob("*.*"):
        os.utime(each)
    assert called() == ["train"], "copied since, and the same"
    runs.save(run, 2, wer=0.09, weight=1.0)
    assert called() == ["train", "evaluate"], "the checkpoint is another one of that name"


def test_an_evaluation_with_other_weights_is_another_one(runs: Runs, tmp_path: Path) -> None:
    trials = Trials(1, tmp_path, "test")
    run, lm = trials.run("", "dpsgd-1"), trials.run("", "lm")
    trials.train(run)
    runs.save(lm, 1, wer=0.5)
    runs.called.clear()

    def evaluate(weight: float) -> None:
        fusion = [f"decode.fusion.external={lm}", f"decode.fusion.external_weight={weight}"]
        trials.errors(run, ["decode=beam", *fusion], "")

    for weight in (0.1, 0.1, 0.2):  # results of both have the same name
        evaluate(weight)
    assert runs.called == ["evaluate", "evaluate"]
    for step, wer in ((1, 0.4), (2, 0.1)):
        runs.save(lm, step, wer, weight=1.0)
        runs.called.clear()
        evaluate(0.2)
        evaluate(0.2)
        assert runs.called == ["evaluate"], "the language model has been trained anew, or on"


def test_a_run_of_another_number_of_learners_is_refused(runs: Runs, tmp_path: Path) -> None:
    run = tmp_path / "dpsgd-1"
    Trials(1, tmp_path, "test").train(run)
    with pytest.raises(UsageError, match=r"--learners 2: .*dpsgd-1 holds a run of 1; choose another --folder"):
        Trials(2, tmp_path, "test").train(run)


def test_quick_runs_have_a_folder_of_their_own(runs: Runs, tmp_path: Path) -> None:
    arguments = ["--learners", "1", "--folder", str(tmp_path), "--variant", "dpsgd", "backend=dpsgd"]
    parity.main([*arguments, "--quick"])
    assert [each.name for each in tmp_path.iterdir()] == ["quick"]
    parity.main(arguments)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dpsgd-1", "quick"]
    assert runs.called == ["train", "evaluate"] * 2


def test_folds_have_folders_and_settings_of_their_own(runs: Runs, tmp_path: Path) -> None:
    folds = ["--fold", "ann", "data.held_out=ann", "--fold", "bob", "data.held_out=bob"]
    variants = ["--variant", "plain", "--variant", "noisy", "hooks=[noise]"]
    figures = tmp_path / "parity.json"
    parity.main(["--learners", "1", "--folder", str(tmp_path / "runs"), *folds, *variants, "--json", str(figures)])
    made = sorted(str(each.relative_to(tmp_path / "runs")) for each in (tmp_path / "runs").glob("*/*") if each.is_dir())
    assert made == ["ann/noisy-1", "ann/plain-1", "bob/noisy-1", "bob/plain-1"]
    assert json.loads(figures.read_text())["folds"] == {"ann": ["data.held_out=ann"], "bob": ["data.held_out=bob"]}
    trained = [command for command in runs.commands if any("train.py" in each for each in command)]
    assert ["data.held_out=bob" in each and "hooks=[noise]" in each for each in trained] == [False, False, False, True]


def test_methods_share_a_language_model_and_their_baselines_hypotheses(runs: Runs, tmp_path: Path) -> None:
    methods_given = ["--methods", "nbest_label_smoothing", "combined"]
    arguments = ["--folder", str(tmp_path / "runs"), "--seeds", "1", "2", *methods_given]
    figures = tmp_path / "methods.json"
    methods.main([*arguments, "--epochs", "12", "--data", "data.root=fsdd", "--json", str(figures)])
    george = tmp_path / "runs" / "george"
    names = [f"{method}-{seed}" for method in ("baseline", "combined", "nbest_label_smoothing") for seed in (1, 2)]
    assert {each.name for each in george.iterdir()} == {*names, "lm"}
    assert runs.called.count("train_lm") == 1
    assert runs.called.count("make_nbest") == 2
    assert runs.called.count("tune_fusion") == 1, "weights are those of the fold"
    assert runs.called.count("evaluate") == 3 * 6, "each search of each run"
    settings = [dict(each.split("=", 1) for each in command if "=" in each) for command in runs.commands]
    for each in settings:
        if each.get("name", "").startswith(("nbest", "combined")):
            lists = f"{george}/baseline-{each['seed']}/nbest/train"
            assert each["hooks.nbest_label_smoothing.lists"] == lists
        if each.get("name", "").startswith("combined"):
            assert each["hooks.scheduled_sampling.lm"] == f"{george}/lm"
            assert (each["trainer.epochs"], each["hooks.length_perturbation.from_epoch"]) == ("12", "5")
            assert each["hooks.length_perturbation.until_epoch"] == "10"
    fused = [each for each in settings if "sets" in each and "decode.fusion.external" in each]
    assert len(fused) == 6
    for each in fused:
        assert each["decode.fusion.external"] == f"{george}/lm"
        assert each["decode.fusion.external_weight"] == "0.4"
        assert each["decode.fusion.label_bonus"] == "0.1"
    saved = json.loads(figures.read_text())
    assert [(each["search"], each["variant"]) for each in saved["rows"][:2]] == [
        ("greedy", "baseline"),
        ("greedy", "nbest_label_smoothing"),
    ]
    assert [each["variant"] for each in saved["language_model"]] == ["baseline", "nbest_label_smoothing", "combined"]


def test_density_ratio_and_other_utterances_are_searched_too(runs: Runs, tmp_path: Path) -> None:
    given = [
        "--density-ratio",
        "--also",
        str(tmp_path / "random_digits.jsonl"),
        "--json",
        str(tmp_path / "methods.json"),
    ]
    arguments = ["--folder", str(tmp_path / "runs"), "--seeds", "1", "2", "--methods", "length_perturbation", *given]
    methods.main(arguments)
    george = tmp_path / "runs" / "george"
    read = {("lm", "data.train_strings=4000"), ("lm-transcripts", "data.train_strings=1000")}
    assert all(any({f"name={name}", texts} <= set(command) for command in runs.commands) for name, texts in read)
    assert runs.called.count("tune_fusion") == 2, "each search with language models has weights of its own"
    assert runs.called.count("evaluate") == 5 * 4
    settings = [dict(each.split("=", 1) for each in command if "=" in each) for command in runs.commands]
    ratio = [each for each in settings if "sets" in each and "decode.fusion.source" in each]
    assert len(ratio) == 4
    for each in ratio:
        assert each["decode.fusion.external"] == f"{george}/lm"
        assert each["decode.fusion.source"] == f"{george}/lm-transcripts"
        assert (each["decode.fusion.external_weight"], float(each["decode.fusion.source_weight"])) == ("0.4", 0.3)
    saved = json.loads((tmp_path / "methods.json").read_text())
    assert list(dict.fromkeys(each["search"] for each in saved["rows"])) == [
        "greedy", "beam", "beam and language model", "beam and density ratio", "greedy, random_digits",
    ]  # fmt: skip
    assert [each["variant"] for each in saved["density_ratio"]] == ["baseline", "length_perturbation"]
    runs.called.clear()
    methods.main(arguments)
    assert runs.called.count("evaluate") == 0, "results of no search have overwritten those of another"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--also", "other/test.jsonl"], r"--also: other/test.jsonl would overwrite the results of another set"),
        (["--also", "a/digits.jsonl", "b/digits.jsonl"], r"--also: b/digits.jsonl would overwrite"),
        (["--also", "digits.jsonl", "--full"], "other folds have trained on what one fold has not heard"),
        (["--corpus", "librispeech", "--density-ratio"], "--density-ratio on librispeech: both language models"),
    ],
)
def test_searches_that_would_compare_nothing_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        methods.main(["--folder", str(tmp_path), *arguments])


def test_crossed_lists_are_made_once_for_all_seeds_and_only_where_they_are_used(runs: Runs, tmp_path: Path) -> None:
    arguments = ["--epochs", "12", "--seeds", "1", "2", "--methods"]
    methods.main([*arguments, "nbest_label_smoothing", "--folder", str(tmp_path / "own")])
    assert not list(tmp_path.rglob("left-out-*"))
    runs.commands.clear()
    methods.main([*arguments, "crossed_nbest_label_smoothing", "--folder", str(tmp_path)])
    george = tmp_path / "george"
    parts = [command for command in runs.commands if any(each.startswith("fold.leave_out=") for each in command)]
    assert [command[-3:] for command in parts] == [
        (f"fold.leave_out={part}", "fold.of=5", "fold.by=speaker") for part in range(1, 6)
    ]
    assert all({"seed=1", "hooks=[spec_augment]", "data.held_out=george"} <= set(command) for command in parts)
    (crossed,) = [command for command in runs.commands if f"out={george / 'crossed-lists'}" in command]
    names = [str(george / f"left-out-{part}") for part in range(1, 6)]
    assert compose("make_nbest", crossed[1:]).run == names
    smoothed = [command for command in runs.commands if any("name=crossed" in each for each in command)]
    assert len(smoothed) == 2, "one from each seed"
    lists = f"hooks.nbest_label_smoothing.lists={george / 'crossed-lists'}"
    assert all(lists in command for command in smoothed)


def test_a_method_that_is_not_compared_on_a_corpus_is_refused(tmp_path: Path) -> None:
    arguments = ["--corpus", "speechocean762", "--folder", str(tmp_path), "--methods", "switchout"]
    with pytest.raises(UsageError, match=r"--methods switchout: on speechocean762 .* length_perturbation"):
        methods.main(arguments)


def test_a_variant_given_twice_is_refused(tmp_path: Path) -> None:
    variants = ["--variant", "a", "seed=1", "--variant", "a", "seed=2"]
    with pytest.raises(UsageError, match="--variant a is given twice"):
        parity.main(["--folder", str(tmp_path), *variants])


@pytest.mark.parametrize("corpus", methods.CORPORA)
def test_every_method_is_a_configuration_that_differs_in_hooks_alone(corpus: str) -> None:
    compared = methods.CORPORA[corpus]
    places = methods.places_of(Path("baseline"), Path("lm"), Path("crossed"), 24)
    shared = [f"experiment={compared.experiment}", *(["data.train=a.jsonl"] if corpus == "librispeech" else [])]
    configurations = {
        name: compose("train", [*shared, *(each.format(**places) for each in settings)])
        for name, settings in compared.methods.items()
    }
    baseline = configurations["baseline"]
    for name, configuration in configurations.items():
        assert (configuration.hooks == baseline.hooks) == (name == "baseline")
        assert all(configuration[key] == value for key, value in baseline.items() if key != "hooks")
