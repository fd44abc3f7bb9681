"""What the learners of a run say to all others while they train: under gossip in lockstep nothing but the exchange."""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from torch.distributed import ProcessGroup

from asr.runs.progress import Progress
from asr.training.hook import Hook
from asr.training.trainer import Trainer
from distributed.learners.world import World

LEARNERS, STEPS = 4, 4
COLLECTIVES = (
    "allgather", "_allgather_base", "allreduce", "allreduce_coalesced", "alltoall", "alltoall_base", "barrier",
    "broadcast", "gather", "reduce", "reduce_scatter", "_reduce_scatter_base", "scatter",
)  # fmt: skip


class Counted(Hook):
    """Counts collectives of all learners from the first step's beginning to the last one's end, logging included."""

    def __init__(self, rank: int, counting: set[int]) -> None:
        self.rank = rank
        self.counting = counting

    def on_step_start(self, progress: Progress) -> None:
        self.counting.add(self.rank)

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        if progress.step == STEPS:
            self.counting.remove(self.rank)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["backend=dpsgd"], {}),
        (["backend=dpsgd", "backend.mix_moments=true"], {"allreduce": 2}),  # until all have moments
        (["backend=hierarchical", "backend.group_size=2"], {}),
        (["backend=delay_by_one"], {"allreduce": STEPS}),  # of the weights: what it exchanges
        # gradients and the weight of each step, the mean loss of each row but the last
        (["backend=allreduce"], {"allreduce": 2 * STEPS + STEPS - 1}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_steps_of_gossip_ask_nothing_of_all_learners(
    small_config: Callable[..., DictConfig],
    make_trainer: Callable[..., Trainer],
    run_learners: Callable[..., list[None]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    overrides: list[str],
    expected: dict[str, int],
) -> None:
    called: dict[int, Counter[str]] = defaultdict(Counter)
    counting: set[int] = set()

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(ProcessGroup, name)

        def call(group: ProcessGroup, *arguments: Any, **options: Any) -> Any:
            if group.size() == LEARNERS and group.rank() in counting:
                called[group.rank()][name] += 1
            return original(group, *arguments, **options)

        return call

    for name in COLLECTIVES:
        monkeypatch.setattr(ProcessGroup, name, counted(name))
    config = small_config(
        *overrides, "hooks=[]", f"trainer.max_steps={STEPS}", "trainer.memory_probe=false", "evaluation.sets=[]"
    )

    def learner(world: World) -> None:
        trainer = make_trainer(config, tmp_path / "run", world, {"counted": Counted(world.rank, counting)})
        try:
            trainer.fit(None)
        finally:
            trainer.parts.recorder.close()

    run_learners(LEARNERS, learner, seconds=120)
    assert {rank: dict(called[rank]) for rank in range(LEARNERS)} == dict.fromkeys(range(LEARNERS), expected)
