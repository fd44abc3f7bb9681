"""Simulated learners that train a recogniser: the weights of real runs, and the table of variants."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.bench import simulated_training
from scripts.bench.simulated_parity import main
from scripts.bench.simulated_training import SimulatedRun

SHORT = ("trainer.max_steps=3", "optimizer=sgd", "hooks=[]", "trainer.max_norm=2.0")


@pytest.fixture
def simulated(small_config: Callable[..., DictConfig]) -> Callable[..., SimulatedRun]:
    """``simulated(learners, *overrides)``: a short run on the tiny corpus."""

    def make(learners: int, *overrides: str) -> SimulatedRun:
        return SimulatedRun(small_config(*SHORT, f"batch.units={learners}", *overrides), learners)

    return make


def weights(run: SimulatedRun) -> dict[str, Tensor]:
    return run.model.views(run.train())


def test_synchronous_learners_have_the_weights_of_a_real_run(
    simulated: Callable[..., SimulatedRun], small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer], alone: World, tmp_path: Path,
) -> None:  # fmt: skip
    trainer = make_trainer(small_config(*SHORT, "batch.units=2", "backend=single"), tmp_path, alone)
    trainer.fit(None)
    trainer.parts.recorder.close()
    found = weights(simulated(2, "backend=allreduce"))
    for name, value in trainer.parts.run.model.named_parameters():
        torch.testing.assert_close(found[name], value.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["backend=scalecom", "backend.rate=1", "trainer.max_norm=null"], ["backend=allreduce", "trainer.max_norm=null"]),
        (["backend=dpsgd", "backend.topology=complete"], ["backend=delay_by_one"]),
        (["backend=hierarchical_adpsgd", "backend.group_size=4"], ["backend=allreduce"]),
        (["backend=hierarchical", "backend.group_size=4"], ["backend=allreduce"]),
        (["backend=dpsgd", "backend.topology=complete", "backend.compression=int4"], ["backend=delay_by_one", "backend.compression=int4"]),
        (["backend=ssgd_noise", "backend.sigma=0"], ["backend=allreduce"]),
    ],
)  # fmt: skip
def test_schemes_that_coincide(simulated: Callable[..., SimulatedRun], one: list[str], other: list[str]) -> None:
    torch.testing.assert_close(weights(simulated(4, *one)), weights(simulated(4, *other)), rtol=0, atol=1e-5)


def test_compressed_gossip_trains_otherwise_than_plain(simulated: Callable[..., SimulatedRun]) -> None:
    plain, compressed = (
        simulated(4, "backend=dpsgd", f"backend.compression={each}").train() for each in ("none", "int4")
    )
    assert 0 < (plain - compressed).norm() < 0.5 * plain.norm()


@pytest.mark.parametrize("backend", [["backend=adpsgd"], ["backend=hierarchical_adpsgd", "backend.group_size=2"]])
def test_asynchronous_learners_take_every_unit_once(
    simulated: Callable[..., SimulatedRun], backend: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    run = simulated(4, *backend)
    criterion = run._criterion
    monkeypatch.setattr(
        run, "_criterion", lambda call, share: seen.extend(unit.unit for unit in share[0]) or criterion(call, share)
    )
    found = run.train()
    planned = [run._units[unit].unit for batch in run._batches() for unit in batch.units]
    assert sorted(seen) == sorted(planned)
    assert len(set(seen)) == 12
    assert torch.isfinite(found).all()
    assert not torch.equal(found, run.model.start_P)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch.units=4"], "batch.units=4: each of 2 simulated learners takes one unit; set batch.units=2"),
        (["hooks=[spec_augment]"], "hooks: simulated learners have none"),
        (["optimizer.weight_decay=0.1"], "optimizer.weight_decay=0.1: .*set it to 0"),
        (["init_from=somewhere"], "init_from=somewhere: simulated learners do not have it"),
        (["trainer.precision=fp64"], "trainer.precision=fp64: .*set it to fp32"),
        (["backend=scalecom", "backend.rate=auto"], "backend.rate=auto: .*set a number"),
        (["backend=hierarchical"], "backend.group_size=None: set a number that divides 2"),
        (["backend=adpsgd", "backend.compression=int8"], "backend.compression=int8: simulated learners do not have it; set it to none"),
        (["backend=powersgd"], "backend=powersgd: recognisers are not simulated with it, but with allreduce"),
    ],
)  # fmt: skip
def test_what_is_not_simulated_is_refused(
    simulated: Callable[..., SimulatedRun], overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        simulated(2, *overrides).train()


def test_the_table_and_what_is_kept(
    small_overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shared = [part for each in (*small_overrides(), *SHORT) for part in ("--override", each)]
    line = [
        "--learners", "2", "--quick", "--seeds", "3", "4", *shared, "--override", "batch.units=2", "--set", "dev",
        "--kept", str(tmp_path / "kept.jsonl"), "--json", str(tmp_path / "found.json"),
        "--variant", "dense", "backend=allreduce", "--variant", "gossip", "backend=dpsgd",
    ]  # fmt: skip
    main(line)
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["figures"]) == {"wer/dense", "wer/gossip", "wer_difference/gossip"}
    assert [row["wer_by_seed"].keys() for row in found["rows"]] == [{"3"}, {"3"}]
    assert found["simulated"] is True
    monkeypatch.setattr(simulated_training.SimulatedRun, "train", lambda self: pytest.fail("trained again"))
    main(line)
    assert json.loads((tmp_path / "found.json").read_text())["figures"] == found["figures"]
    assert capsys.readouterr().out.count("| gossip |") == 2


def test_folds_are_made_and_pooled(small_overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    shared = [part for each in (*small_overrides(), *SHORT) for part in ("--override", each)]
    main([
        "--learners", "2", "--quick", *shared, "--override", "batch.units=2", "--set", "dev", "--json", str(tmp_path / "found"),
        "--fold", "one", "optimizer.lr=0.01", "--fold", "other", "optimizer.lr=0.02", "--variant", "dense", "backend=allreduce",
    ])  # fmt: skip
    found = json.loads((tmp_path / "found").read_text())
    assert found["folds"] == {"one": ["optimizer.lr=0.01"], "other": ["optimizer.lr=0.02"]}
    by_fold = found["rows"][0]["wer_by_fold"]
    assert by_fold == {fold: each["wer"] for fold, each in found["rows"][0]["folds"].items()}
    assert by_fold.keys() == {"one", "other"}
    assert found["figures"]["wer/dense"] == pytest.approx(sum(by_fold.values()) / 2)
