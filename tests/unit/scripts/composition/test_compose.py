"""Composing and checking configurations: what is accepted, and that refusals are one helpful line."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from distributed.errors import UsageError
from scripts.composition.compose import (
    CONF,
    compose,
    differing_keys,
    options,
    print_help,
    run_name,
    split_arguments,
)
from tests import compositions
from tests.schemes import SCHEMES

ENTRY_POINTS = {path.stem for path in CONF.glob("*.yaml")} - {"training"}  # which two of them begin with
LM = ["hooks.scheduled_sampling.lm=exp/lm"]
LISTS = ["hooks.nbest_label_smoothing.lists=exp/a/nbest/train"]
MANIFEST = ["data.train=train.jsonl"]
NEEDED = {  # what has no default
    ("data", "manifests"): MANIFEST,
    ("experiment", "librispeech_small"): MANIFEST,
    ("experiment", "librispeech_small_lstm"): MANIFEST,
    ("experiment", "librispeech_small_characters"): MANIFEST,
    ("experiment", "librispeech_small_finetune"): MANIFEST,
    ("experiment", "own_speech"): MANIFEST,
    ("hooks", "additive_noise"): ["hooks.additive_noise.manifest=noise.jsonl"],
    ("hooks", "reverberation"): ["hooks.reverberation.manifest=rooms.jsonl"],
    ("hooks", "scheduled_sampling"): LM,
    ("hooks", "nbest_label_smoothing"): LISTS,
    ("hooks", "layerwise_distillation"): ["hooks.layerwise_distillation.teacher=exp/a"],
    **{
        ("experiment", f"{corpus}_{recipe}"): needed
        for corpus in ("swb300", "fsdd_quarter", "speechocean762")
        for recipe, needed in (("nbest", LISTS), ("combined", LISTS), ("scheduled_sampling", LM))
    },
}
ALIKE = (  # compositions of tests/compositions.py that must be Hydra's
    ["backend=dpsgd", "model=conformer_tiny", "optimizer.lr=0.5", "name='a=b'"],
    ["+hooks=[diagnostics,switchout]", "hooks.switchout.temperature=0.2", "data.remove=[a,b]", "seed=7"],
    ["experiment=demo", "hooks=[]", "logger=[]", "model/predictor=stateless", 'tokenizer.alphabet=" abc"'],
    ["hooks=[spec_augment]", "+hooks.spec_augment.other=3"],
    ["trainer.epoch=3"],
    ["hooks=[diagnostics]", "~hooks.diagnostics"],
    ["model=non_existent", "seed=1"],
)
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())


@pytest.fixture(autouse=True)
def by_hydra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here it is Hydra that composes, from files that it has read before."""
    monkeypatch.setattr("hydra.compose", compositions.BY_HYDRA)
    monkeypatch.setattr(OverridesParser, "parse_overrides", compositions.PARSED_BY_HYDRA)
    with compositions.reading_once():
        yield


@pytest.fixture
def from_files() -> Iterator[None]:
    """Hydra reads its files for each composition."""
    with mock.patch.object(config_loader_impl, "CachingConfigRepository", CachingConfigRepository):
        yield


@pytest.mark.usefixtures("from_files")
@pytest.mark.parametrize("overrides", ALIKE, ids=" ".join)
def test_compositions_for_tests_are_those_of_hydra(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> object:
        try:
            return OmegaConf.to_yaml(compose("train", overrides))
        except UsageError as error:
            return str(error)

    expected = outcome()
    monkeypatch.setattr("hydra.compose", compositions.compose)
    monkeypatch.setattr(OverridesParser, "parse_overrides", compositions.parse_overrides)
    assert [outcome(), outcome()] == [expected, expected]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("bakend=dpsgd", ["bakend", "backend"]),
        ("backend=alreduce", ["alreduce", "dpsgd", "did you mean 'allreduce'"]),
        ("trainer.epoch=3", ["trainer.epoch", "did you mean 'trainer.epochs'"]),
        ("model.layers=3", ["model.layers", "did you mean 'model.encoder.layers'"]),
        ("hooks=[spec_augmnt]", ["spec_augmnt", "did you mean 'spec_augment'"]),
        ("optimizer.lr=-1", ["optimizer.lr=-1", "above 0"]),
        ("optimizer.lr=abc", ["optimizer.lr=abc", "a number"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas", "a list of 2 values"]),
        ("optimizer.betas=[0.9,1.0]", ["optimizer.betas", "below 1"]),
        ("model.encoder.dropout=1.5", ["model.encoder.dropout=1.5", "below 1"]),
        ("trainer.precision=fp23", ["trainer.precision=fp23", "fp32, bf16, fp64"]),
        ("trainer.epochs=1.5", ["trainer.epochs=1.5", "a whole number"]),
        ("trainer.max_norm=0", ["trainer.max_norm=0", "above 0", "null"]),
        ("batch.units=0", ["batch.units=0", "at least 1"]),
        ("data.vocabulary=tiny", ["data.vocabulary=tiny", "small, full"]),
        ("backend=dpsgd backend.topology=rnig", ["backend.topology=rnig", "random_ring", "did you mean 'ring'"]),
        ("data.on_bad=skp", ["data.on_bad=skp", "did you mean 'skip'"]),
        ("seed=abc", ["seed=abc", "a whole number"]),
        ("foo", ["'foo'", "key=value"]),
        ("-x", ["'-x'", "key=value"]),
        ("--stream", ["'--stream'", "key=value", "; for example stream=true"]),
        ("--decode.beam=4", ["'--decode.beam=4'", "; for example decode.beam=4"]),
        (
            "-m",
            [
                "-m: one command is one run",
                "several are tried with python scripts/sweep.py name=my-sweep train ... key=A,B",
            ],
        ),
        (
            "--multirun optimizer.lr=0.1,0.2",
            ["scripts/sweep.py name=my-sweep train ... optimizer.lr=0.1,0.2", "lr=[0.1,0.2]"],
        ),
        ("lr=0.1,0.2", ["unknown key 'lr'", "did you mean 'optimizer.lr'?"]),
        ("name=a,b", ["for name in a b; do python scripts/train.py ... name=$name; done"]),
        ("backend=dpsgd,adpsgd", ["scripts/sweep.py name=my-sweep train ... backend=dpsgd,adpsgd"]),
        ("hooks=spec_augment,replicas", ["a list is written 'hooks=[spec_augment,replicas]'"]),
        ("seed=range(1,4)", ["scripts/sweep.py name=my-sweep train ... 'seed=range(1,4)'"]),
        ("seed=interval(1,4)", ["scripts/sweep.py name=my-sweep train ... 'seed=interval(1,4)'"]),
        ("+trainer.warmup=3", ["trainer.warmup"]),
        ("data=manifests", ["data.train", "must be set"]),
        ("hooks=[additive_noise]", ["hooks.additive_noise.manifest", "must be set"]),
        (
            "hooks=[speed_perturbation] hooks.speed_perturbation.factors=[0.9,3]",
            ["factors", "at least 0.5 and at most 2"],
        ),
        ("loader.cache_gb=-1", ["loader.cache_gb=-1", "at least 0"]),
        ("model._target_=os.system", ["model._target_", "asr, compression, distributed"]),
        ("hooks=null", ["hooks=null", "spec_augment", "hooks=[] for none"]),
        ("hooks=[null]", ["hooks=[null]", "spec_augment", "hooks=[] for none"]),
        ("hooks={a:1}", ["hooks={a:1}", "hooks=[] for none"]),
        (
            "model/loss=pruned model.loss.prune_range=1",
            ["model.loss.prune_range=1", "must be a whole number at least 2"],
        ),
        ("model/loss=pruned model.loss.simple_scale=0", ["model.loss.simple_scale=0", "above 0"]),
        ("model/loss=pruned model.loss.lattice.tile_cells=0", ["model.loss.lattice.tile_cells=0", "at least 1"]),
        ("model/loss=prund", ["prund", "did you mean 'pruned'"]),
        ("~logger", ["~logger", "logger=[] for none"]),
        ("~hooks", ["~hooks", "hooks=[] for none"]),
        ("~trainer.epochs", ["~trainer.epochs", "hooks and logger"]),
        ("backend=null", ["backend=null", ", ".join(sorted(SCHEMES))]),
        ("backend=[single,dpsgd]", ["backend=[single,dpsgd]", ", ".join(sorted(SCHEMES))]),
        ("backend@other=single", ["backend@other=single", "write backend="]),
        ("decode=3", ["decode=3", "greedy"]),
        ("batch=null", ["batch=null", "_target_"]),
        ("=", ["'='", "key=value"]),
        ("evaluation.sets=dev", ["evaluation.sets=dev", "must be a list", "write evaluation.sets=[dev]"]),
        ("evaluate run=x backend=dpsgd", ["backend=dpsgd", "evaluate has no group 'backend'", "decode"]),
        ("evaluate run=x sets=test", ["sets=test", "must be a list", "write sets=[test]"]),
    ],
)
def test_refusals_are_one_line_that_helps(override: str, expected: list[str]) -> None:
    name, *overrides = override.split() if override.startswith("evaluate ") else ("train", *override.split())
    with pytest.raises(UsageError) as caught:
        compose(name, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in options(group)])
def test_every_option_composes(group: str, option: str) -> None:
    needed = NEEDED.get((group, option), [])
    chosen = f"{group}=[{option}]" if group in ("hooks", "logger") else f"{group}={option}"
    if group == "passes":
        assert compose("compress", ["run=exp/some", chosen]).passes
        return
    config = compose("train_lm" if group == "language_model" else "train", [chosen, *needed])
    assert config.trainer.epochs >= 1


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS - {"train"}))
def test_every_entry_point_composes(name: str) -> None:
    run = ["run=exp/some"]
    needed = {
        **dict.fromkeys(("make_nbest", "evaluate", "transcribe", "align", "tune_fusion", "export"), run),
        "train_tokenizer": ["out=pieces"],
        "sweep": ["name=lr"],
        "cut": [*run, "out=cut"],
        "compress": [*run, "passes=rewrite"],
    }
    assert compose(name, needed.get(name, []))


def test_values_that_fit_are_accepted() -> None:
    config = compose(
        "train", ["optimizer.lr=1", "trainer.max_norm=null", "trainer.max_steps=20", "hooks=[]", "logger=[]"]
    )
    assert config.optimizer.lr == 1
    assert not config.get("hooks")
    assert not config.get("logger")


def test_run_name_depends_on_the_overrides_alone() -> None:
    assert run_name([]) == "default"
    assert run_name(["backend=dpsgd", "optimizer.lr=0.1"]) == run_name(["optimizer.lr=0.1", "backend=dpsgd"])
    assert run_name(["backend=dpsgd", "resume=false"]) == run_name(["backend=dpsgd"])
    assert run_name(["seed=1"]) != run_name(["seed=2"])
    long = [f"data.root=/a/very/long/path/{'x' * 300}/{i}" for i in range(2)]
    assert run_name(long[:1]) != run_name(long[1:])
    assert all(len(run_name([each])) <= 120 and "/" not in run_name([each]) for each in long)


def test_differing_keys_name_the_leaves() -> None:
    one = OmegaConf.create({"a": 1, "b": {"c": 2, "d": [1, 2]}})
    other = OmegaConf.create({"a": 1, "b": {"c": 3, "d": [1, 2]}, "e": None})
    assert differing_keys(one, other) == ["b.c"]
    assert differing_keys(one, OmegaConf.create({"a": 1, "b": {"c": 2, "d": [1, 3]}})) == ["b.d"]


def test_differing_keys_see_the_order_of_hooks() -> None:
    one, other = ({"hooks": {name: {"rate": 1} for name in order}} for order in ("ab", "ba"))
    assert differing_keys(OmegaConf.create(one), OmegaConf.create(other)) == ["the order of hooks"]
    assert differing_keys(OmegaConf.create(one), OmegaConf.create(one)) == []


def test_folders_with_an_equals_sign_are_paths_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name that a run gets by itself, such as exp/backend=dpsgd, can be given to every entry point."""
    monkeypatch.chdir(tmp_path)
    folder = Path("exp", run_name(["backend=dpsgd", "hooks=[a,b]"]))
    folder.mkdir(parents=True)
    assert split_arguments([str(folder), "threads=2", "a.wav"]) == (["threads=2"], [folder, Path("a.wav")])
    assert split_arguments(["-m", "a.wav"]) == (["-m"], [Path("a.wav")]), "a flag is to be refused"
    assert compose("evaluate", [f"run={folder}"]).run == str(folder)
    assert compose("evaluate", [f"run='{folder}'"]).run == str(folder)


def test_help_lists_the_groups_of_the_entry_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_help("evaluate", ["--help"], "usage")
    shown = capsys.readouterr().out
    assert "decode=beam|ctc_greedy|greedy" in shown
    assert "backend=" not in shown
    assert print_help("train", ["-h"], "usage")
    shown = capsys.readouterr().out
    assert "backend=" + "|".join(sorted(SCHEMES)) in shown
    assert "model/predictor=lstm_1024|lstm_128|" in shown


@pytest.mark.parametrize("override", ["hooks.spec_augment=null", "+hooks.x=3", "+hooks.x={probability:1}"])
def test_what_is_no_option_of_a_list_is_refused(override: str) -> None:
    with pytest.raises(UsageError, match=r"^(\+?hooks\.\w+=\S+: ).*hooks=\[\.\.\.\]"):
        compose("train", [override])


def test_hooks_that_an_experiment_configures_can_be_left_out() -> None:
    assert "spec_augment" in compose("train", ["experiment=demo"]).hooks
    assert not compose("train", ["experiment=demo", "hooks=[]"]).hooks
    others = compose("train", ["experiment=demo", "hooks=[speed_perturbation]"]).hooks
    assert list(others) == ["speed_perturbation"]
    with pytest.raises(UsageError, match=r"time_masks=3: spec_augment is not chosen; add it to hooks=\[...\]"):
        compose("train", ["experiment=demo", "hooks=[]", "hooks.spec_augment.time_masks=3"])
