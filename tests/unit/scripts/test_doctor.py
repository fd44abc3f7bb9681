"""The doctor: what it finds on this machine, and in runs that cannot work or seldom do."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig, OmegaConf

from distributed.errors import UsageError
from scripts.composition.checkup import machine_checks
from scripts.composition.checkup.doctor import Examination, doctor, doctor_options, folder_of_runs
from scripts.composition.checkup.domain import unheard_words
from scripts.composition.checkup.finding import Finding
from scripts.composition.checkup.run_checks import check_run


def by_name(findings: Iterator[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.what, []).append(finding)
    return found


@pytest.fixture
def examined(
    small_overrides: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., dict[str, list[Finding]]]:
    """``examined(*overrides, learners=1)``: the findings of a run on the tiny corpus."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def examine(*overrides: str, learners: int = 1) -> dict[str, list[Finding]]:
        return by_name(check_run("train", small_overrides("batch.unit_utterances=2", *overrides), learners))

    return examine


def test_memory_and_pace_of_a_run_are_predicted_and_nothing_is_left(
    examined: Callable[..., dict[str, list[Finding]]], tmp_path: Path
) -> None:
    found = examined("trainer.max_steps=50", "backend=allreduce")
    (memory,), (pace,) = found["memory"], found["pace"]
    assert memory.text.startswith("worst batch of the plan: 2 x ")
    assert memory.text.endswith("GiB for each learner")
    assert "; 50 steps take" in pace.text
    assert "run" not in found, found["run"]
    assert list(tmp_path.iterdir()) == []


def test_minutes_of_speech_are_warned_of_unless_a_model_is_given(
    examined: Callable[..., dict[str, list[Finding]]], finished_run: Callable[..., Path],
    small_config: Callable[..., DictConfig], tmp_path: Path,
) -> None:  # fmt: skip
    (data,) = examined("backend=single")["data"]
    assert data.weight == "warning"
    assert "40 utterances, 0.00 h: a model that is drawn anew" in data.text
    finished_run(small_config("backend=single", "trainer.max_steps=1"), tmp_path / "before")
    found = examined("backend=single", "init_from=before")
    assert [each.weight for each in found["data"]] == ["ok"]
    (domain,) = found["domain"]
    assert str(domain) == "ok       domain: 0% of the words are none that init_from=before was trained on"


def test_texts_of_another_domain_than_the_model_s_are_warned_of(
    examined: Callable[..., dict[str, list[Finding]]], finished_run: Callable[..., Path],
    small_config: Callable[..., DictConfig], tiny_corpus: Path, tmp_path: Path,
) -> None:  # fmt: skip
    finished_run(small_config("backend=single", "trainer.max_steps=1"), tmp_path / "before")
    lines = (tiny_corpus / "train.jsonl").read_text()
    (tmp_path / "other.jsonl").write_text(lines.replace("stop", "halt").replace("go", "walk").replace("no", "nay"))
    for split in ("train", "dev"):
        for file in tiny_corpus.glob(f"{split}-*.wav"):
            shutil.copy(file, tmp_path)
    shutil.copy(tiny_corpus / "dev.jsonl", tmp_path)
    (domain,) = examined("backend=single", "init_from=before", f"data.root={tmp_path}", "data.train=other.jsonl")[
        "domain"
    ]
    assert domain.weight == "warning"
    assert "halt" in domain.text


def test_a_model_of_another_alphabet_is_an_error_that_names_the_letters(
    examined: Callable[..., dict[str, list[Finding]]], finished_run: Callable[..., Path],
    small_config: Callable[..., DictConfig], tmp_path: Path,
) -> None:  # fmt: skip
    finished_run(small_config("backend=single", "trainer.max_steps=1"), tmp_path / "before")
    (finding,) = examined("backend=single", "init_from=before", "tokenizer.alphabet=' abcdefghijklmnopqrstuvwxyé'")[
        "run"
    ]
    assert finding.weight == "error"
    assert "writes other tokens of another alphabet (it has no 'é'; this run has no \"'\", 'z')" in finding.text


def test_unheard_words() -> None:
    assert unheard_words(["a b b", "C"], ["A c"]) == (0.5, ["b"])
    assert unheard_words([], ["a"]) == (0.0, [])


@pytest.mark.parametrize(("learners", "warned"), [(1, ["one learner has nobody to mix its weights with"]), (2, [])])
def test_one_learner_under_gossip_is_warned_of(
    examined: Callable[..., dict[str, list[Finding]]], learners: int, warned: Sequence[str]
) -> None:
    found = examined("backend=dpsgd", learners=learners).get("run", [])
    assert [each.weight for each in found] == ["warning"] * len(warned)
    for finding, text in zip(found, warned, strict=True):
        assert text in finding.text


@pytest.mark.parametrize(
    ("overrides", "learners", "message"),
    [
        (["optimizer.l=1"], 1, "did you mean 'optimizer.lr'"),
        ([], 3, "3 learners cannot share a global batch of batch.units=4 units"),
        (["init_from=nowhere"], 1, "init_from=nowhere: no checkpoint there"),
        (["tokenizer.alphabet=xyz"], 1, "unusable"),
        (["trainer.memory_limit_gb=0.01"], 1, "trainer.memory_limit_gb=0.01"),
    ],
)
def test_what_training_would_refuse_is_an_error(
    examined: Callable[..., dict[str, list[Finding]]], overrides: Sequence[str], learners: int, message: str
) -> None:
    (finding,) = examined("backend=single", *overrides, learners=learners)["run"]
    assert finding.weight == "error"
    assert message in finding.text


def test_the_folder_of_another_run_is_an_error(
    examined: Callable[..., dict[str, list[Finding]]], small_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    (tmp_path / "exp" / "taken").mkdir(parents=True)
    OmegaConf.save(small_config("backend=single", "name=taken"), tmp_path / "exp" / "taken" / "config.yaml")
    (finding,) = examined("backend=dpsgd", "name=taken")["run"]
    assert "holds a run with another configuration; it differs in backend" in finding.text


def test_this_machine_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    found = by_name(machine_checks.check_machine(tmp_path))
    assert {"versions", "bf16", "memory", "GPUs", "gloo", "host name", "SLURM", "disk"} <= found.keys()
    assert found["gloo"] == [Finding("ok", "gloo", "two learners exchange numbers over the interface lo")]


def test_an_interface_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    finding = next(machine_checks.check_gloo())
    assert finding.weight == "error"
    assert "interface nosuch0 (GLOO_SOCKET_IFNAME)" in finding.text


def test_versions_that_are_not_the_lock_s_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    differing = {"numpy": ("1.0", "2.0"), "onnx": (None, "1.18")}
    monkeypatch.setattr(machine_checks, "differing_versions", lambda: differing)
    versions, packages = machine_checks.check_versions()
    assert (versions.weight, packages.weight) == ("warning", "warning")
    assert "numpy 1.0 in place of 2.0" in versions.text
    assert "not installed: onnx" in packages.text


def test_little_shared_memory_and_little_disk_are_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_checks, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64 * 2**20))
    shared = by_name(machine_checks.check_memory())["shared memory"][0]
    assert shared.weight == "warning"
    assert "--shm-size" in shared.text
    (disk,) = machine_checks.check_disk("disk", tmp_path / "exp" / "new")
    assert str(disk).startswith("warning  disk: 0.1 GiB free in ")


def test_a_folder_that_cannot_be_written_to_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert [each.weight for each in machine_checks.check_disk("disk", tmp_path)] == ["error"]


@pytest.mark.parametrize(
    ("script", "weight", "text"),
    [
        ('[ "$1" = --version ] && echo "slurm 22.05.8" || printf "2\\n3\\n"', "ok", "slurm 22.05.8, 5 nodes"),
        ('echo "Unable to contact slurm controller" >&2; exit 1', "warning", "nobody answers: Unable to contact"),
    ],
)
def test_slurm_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, weight: str, text: str) -> None:
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (finding,) = machine_checks.check_slurm()
    assert finding.weight == weight
    assert text in finding.text


def test_a_host_name_without_address_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def unknown(_: str) -> str:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert [each.weight for each in machine_checks.check_gloo()] == ["ok", "warning"]


def test_the_exit_code_is_1_where_something_cannot_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine_checks, "check_machine", lambda _: iter([Finding("warning", "disk", "little")]))
    assert doctor(Examination(1, None, [])) == 0
    assert doctor(Examination(1, "train", ["optimizer.l=1"])) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "warning  disk: little",
        "error    run: unknown key 'optimizer.l'; did you mean 'optimizer.lr'?",
    ]


def test_the_disk_is_that_of_the_run() -> None:
    assert folder_of_runs(Examination(1, None, [])) == Path("exp")
    assert folder_of_runs(Examination(1, "train", ["exp_dir=/other/runs"])) == Path("/other/runs")
    assert folder_of_runs(Examination(1, "train", ["exp_dir=/other/runs", "optimizer.l=1"])) == Path("exp")


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor_options([], "") == Examination(1, None, [])
    assert doctor_options(["--learners", "4", "train_lm", "name=x"], "") == Examination(4, "train_lm", ["name=x"])
    assert doctor_options(["--help"], "what it does") is None
    assert capsys.readouterr().out == "what it does\n"
    with pytest.raises(UsageError, match="--learners=0: must be 1 or more"):
        doctor_options(["--learners", "0"], "")
