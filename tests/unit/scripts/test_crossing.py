"""N-best lists by cross-decoding: each utterance by the run that has not heard it, for a run on the whole training set."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from asr.data.manifest import read_manifest, write_manifest
from asr.data.nbest import read_header, shard_file
from asr.runs.metrics import read_rows
from distributed.errors import UsageError
from scripts.make_nbest import main as make_nbest

Run = Callable[..., Path]
FEW = ("hypotheses=3", "shard_utterances=16", "unit_utterances=4")
BY_SPEAKER = ("fold.of=3", "fold.by=speaker")


def listed(runs: list[Path]) -> str:
    return f"run=[{','.join(map(str, runs))}]"


def rows_of(folder: Path, shards: int = 3) -> dict[str, str]:
    """The line of each utterance."""
    lines = [line for shard in range(shards) for line in shard_file(folder, shard).read_text().splitlines()]
    return {line.partition('"id":"')[2].partition('"')[0]: line for line in lines}


def tokens_of(line: str) -> str:
    """All but the scores, whose last digits other units of a batch may change."""
    return line.partition('"scores"')[0]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def runs(random_run: Run) -> list[Path]:
    """Three runs with weights of their own, each without a speaker; not in the order of the folds."""
    return [
        random_run(f"run{number}", *BY_SPEAKER, f"fold.leave_out={number}", f"seed={number}") for number in (2, 3, 1)
    ]


def test_every_utterance_is_decoded_by_the_run_that_has_not_heard_it(
    runs: list[Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    make_nbest([listed(runs), *FEW, f"out={tmp_path / 'crossed'}"])
    crossed = rows_of(tmp_path / "crossed")
    utterances = read_manifest(tiny_corpus / "train.jsonl")
    assert crossed.keys() == {each.id for each in utterances}
    lists: dict[str, dict[str, str]] = {}
    for run in runs:
        make_nbest([f"run={run}", *FEW, f"split={tiny_corpus / 'train.jsonl'}", f"out={run / 'all'}"])
        lists[run.name] = {name: tokens_of(line) for name, line in rows_of(run / "all").items()}
    for each in utterances:
        deaf = f"run{int(each.speaker.removeprefix('speaker')) + 1}"
        assert tokens_of(crossed[each.id]) == lists[deaf][each.id]
    one, *others = lists.values()
    assert all(sum(one[name] != other[name] for name in one) > 20 for other in others), "the runs write other things"


def test_the_header_names_all_runs_in_the_order_of_folds(runs: list[Path], tmp_path: Path) -> None:
    command = [*FEW, f"out={tmp_path / 'crossed'}"]
    make_nbest([listed(runs), *command])
    header = read_header(tmp_path / "crossed")
    assert header.run == ", ".join(str(tmp_path / f"run{number}") for number in (1, 2, 3))
    assert header.checkpoint.count(", ") == 2
    assert (header.split, header.utterances) == ("train", 40)
    make_nbest([f"run={runs[0]}", *FEW])
    single = read_header(runs[0] / "nbest" / "train")
    assert (single.run, single.utterances) == (str(runs[0]), 27), "one run decodes what it has heard, as ever"
    differing = {key for key, value in asdict(single).items() if asdict(header)[key] != value}
    assert differing == {"run", "checkpoint", "weights", "utterances", "corpus"}


def test_crossed_lists_go_on_where_they_stopped_and_are_shared_by_processes(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*FEW, f"out={tmp_path / 'crossed'}"]
    make_nbest([listed(runs), *command])
    whole = contents(tmp_path / "crossed")
    shard_file(tmp_path / "crossed", 1).unlink()
    make_nbest([listed(runs[::-1]), *command])
    assert "1 shards written, 2 of 3 were there" in capsys.readouterr().out
    assert contents(tmp_path / "crossed") == whole, "whatever the order in which the runs are given"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        make_nbest([listed(runs), *FEW, f"out={tmp_path / 'shared'}"])
    assert contents(tmp_path / "shared") == whole


def test_other_weights_of_one_run_are_other_lists(runs: list[Path], random_run: Run, tmp_path: Path) -> None:
    command = [listed(runs), *FEW, f"out={tmp_path / 'crossed'}"]
    make_nbest(command)
    other = random_run("other", *BY_SPEAKER, "fold.leave_out=1", "seed=9")
    (runs[0] / "checkpoints").rename(runs[0] / "earlier")
    (other / "checkpoints").rename(runs[0] / "checkpoints")
    with pytest.raises(UsageError, match=r"holds lists of another weights \([^ ]+ there, [^ ]+ here\): "):
        make_nbest(command)


def test_a_run_on_the_whole_set_trains_with_crossed_lists(
    small_config: Callable[..., DictConfig], finished_run: Run, tmp_path: Path
) -> None:
    short = ("backend=single", "evaluation.sets=[]")
    baseline = ("hooks=[]", "trainer.max_steps=10", "optimizer.lr=0.01")
    runs = [
        finished_run(
            small_config(*short, *baseline, "fold.of=2", "fold.by=utterance", f"fold.leave_out={number}"),
            tmp_path / f"run{number}",
        )
        for number in (1, 2)
    ]
    make_nbest([listed(runs), *FEW, f"out={tmp_path / 'crossed'}"])
    smoothing = (
        "hooks=[nbest_label_smoothing]", f"hooks.nbest_label_smoothing.lists={tmp_path / 'crossed'}",
        "hooks.nbest_label_smoothing.hypotheses=3", "hooks.nbest_label_smoothing.max_lengthening=5",
        "hooks.nbest_label_smoothing.epsilon=1", "trainer.max_steps=2",
    )  # fmt: skip
    run = finished_run(small_config(*short, *smoothing), tmp_path / "smoothed")
    assert read_rows(run / "metrics" / "0.jsonl")[0]["nbest_label_smoothing/epsilon"] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("fold.leave_out=2",), r"run2: it left out fold 2, as \S+/run1 did; give one run for each fold$"),
        ((), r"run2: it left no fold out \(fold\.leave_out=null\), so that it has heard everything; "),
        (("fold.leave_out=1", "fold.of=2"), r"run2: fold\.of=2, but 3 in \S+/run1; train runs that differ in "),
        (("fold.leave_out=1", "fold.by=utterance"), r"run2: fold\.by=utterance, but speaker in \S+/run1; "),
        (("fold.leave_out=1",), r"^run=\[\.\.\.\]: none of the runs left out fold 3 of 3; train one with fold\.leave_out=3$"),
        (("fold.leave_out=1", "features.frame_shift_ms=20"), r"run2: it hears other features than \S+/run1; "),
        (("fold.leave_out=1", "tokenizer.alphabet=' ehgnopsty'"), r"run2: it writes other tokens than \S+/run1; "),
    ],
)  # fmt: skip
def test_runs_that_do_not_make_one_training_set_are_refused(
    random_run: Run, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    runs = [random_run("run1", *BY_SPEAKER, "fold.leave_out=2"), random_run("run2", *BY_SPEAKER, *overrides)]
    with pytest.raises(UsageError, match=message) as caught:
        make_nbest([listed(runs), f"out={tmp_path / 'crossed'}"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "crossed").exists()


def test_a_run_that_began_at_another_one_is_warned_of(
    random_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [random_run("run1", *BY_SPEAKER, "fold.leave_out=2"), random_run("run2", *BY_SPEAKER)]
    config = OmegaConf.load(runs[0] / "config.yaml")
    config.init_from = "exp/all"
    OmegaConf.save(config, runs[0] / "config.yaml")
    with pytest.raises(UsageError, match="run2: it left no fold out"):
        make_nbest([listed(runs), f"out={tmp_path / 'crossed'}"])
    assert "run1: it began at init_from=exp/all; had that heard the fold" in caplog.text


def test_runs_on_other_utterances_are_refused(random_run: Run, tiny_corpus: Path, tmp_path: Path) -> None:
    utterances = read_manifest(tiny_corpus / "train.jsonl")
    write_manifest(tmp_path / "other.jsonl", utterances[:-1])
    two = ("fold.of=2", "fold.by=utterance")
    runs = [
        random_run("run1", *two, "fold.leave_out=1"),
        random_run("run2", *two, "fold.leave_out=2", f"data.train={tmp_path / 'other.jsonl'}"),
    ]
    with pytest.raises(
        UsageError, match=r"run2: its training set is another one than that of \S+/run1 \(data, [^\n]*$"
    ):
        make_nbest([listed(runs), f"out={tmp_path / 'crossed'}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=[a,b]"], r"^out=null: lists by several runs belong to the folder of none; set out=exp/crossed"),
        (
            ["run=[a,b]", "out=c", "split=dev"],
            r"^split=dev: several runs decode the split that has folds, which is train",
        ),
        (["run=[]", "out=c"], r"^run=\[\]: give one run, or several that each left out a fold"),
        (["run=[1]", "out=c"], r"^run=\[1\]: must be a path or a list of which each entry is a path$"),
    ],
)
def test_commands_that_make_no_sense_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_nbest(arguments)
