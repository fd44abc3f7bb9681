"""Training leaves timelines of every learner: an exchange is in them whether it is hidden or waited for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asr.runs.timeline import read_timelines
from asr.training.trainer import Trainer
from distributed.learners.world import World

LEARNERS, STEPS = 2, 4


@pytest.mark.parametrize("backend", ["dpsgd", "adpsgd", "allreduce", "scalecom"])
def test_steps_and_their_exchanges_are_in_the_timelines(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[int]],
    tmp_path: Path,
    backend: str,
) -> None:
    config = small_config(
        f"backend={backend}", "hooks=[]", f"trainer.max_steps={STEPS}", "trainer.log_every=1",
        f"trainer.evaluate_every={STEPS}", "trainer.memory_probe=false",
    )  # fmt: skip

    def learner(world: World) -> int:
        trainer = make_trainer(config, tmp_path / "run", world, {})
        try:
            trainer.fit(None)
        finally:
            trainer.parts.recorder.close()
        return trainer.progress.step

    steps = run_learners(LEARNERS, learner, seconds=120)
    timelines = read_timelines(tmp_path / "run")
    assert sorted(timelines) == list(range(LEARNERS))
    for rank, spells in timelines.items():
        of_kind = {kind: [each for each in spells if each.kind == kind] for kind in ("step", "data", "exchange")}
        assert len(of_kind["step"]) == len(of_kind["data"]) == steps[rank]
        assert all(step.start == data.start for step, data in zip(of_kind["step"], of_kind["data"], strict=True))
        ends = [step.end for step in of_kind["step"]]
        assert ends == sorted(ends)
        inside = [each for each in of_kind["exchange"] if each.end > of_kind["step"][0].start and each.start < ends[-1]]
        assert inside, "what was exchanged is there"
        if backend in ("dpsgd", "allreduce", "scalecom"):
            assert len(inside) >= steps[rank], "in every step"
