"""What a checkpoint of a run holds of a learner, and when it must not be written."""

from typing import Any

from asr.runs.checkpoint import Checkpoint
from asr.runs.progress import Progress
from asr.training.bad_steps import BadSteps, TrainingDivergedError
from asr.training.health import ailment, odd_one
from asr.training.run_parts import Parts
from asr.training.state import copied
from distributed.base import checksum


class Saver:
    """Saves and restores what training changes; all but ``state_dict`` is collective.

    Attributes:
        put_off: whether a checkpoint that was due waits for the end of a streak of bad steps.
        saved_samples: samples up to which the newest checkpoint stands.
    """

    def __init__(self, parts: Parts, bad_steps: BadSteps) -> None:
        self.parts = parts
        self.bad_steps = bad_steps
        self.put_off = False
        self.saved_samples = 0

    def save(self, progress: Progress, units: int, figure: float | None, *, last: bool) -> None:
        """Write a checkpoint, which may then go on in the background.

        It is put off to the end of a streak of bad steps, and never written where a learner holds numbers that are not
        finite: a checkpoint of either would push out those that a run can go on from.

        Args:
            units: number of units that this learner has processed.
            figure: metric of the first evaluation set, if it was evaluated at this point.
            last: whether the run ends here: then a streak of bad steps has no end to wait for.

        Raises:
            TrainingDivergedError: a learner holds such numbers, or other weights than the rest under a scheme that keeps
                them equal: its memory, or a message to it, was changed.
        """
        parts = self.parts
        self.put_off = parts.world.any(self.bad_steps.in_a_row > 0) and not last
        if self.put_off:
            return
        parts.checkpoints.finish()  # before another copy of the state is made
        parts.clock.restart()
        for hook in parts.hooks.values():
            hook.on_checkpoint(progress)
        backend = parts.run.backend
        backend.drain()
        state = self.state_dict(progress, units)
        unfit = parts.world.first_failure(ailment(state))
        if unfit is None and backend.synchronous:
            unfit = odd_one(parts.world.gather(checksum(list(parts.run.model.parameters()))))
        if unfit is not None:
            raise TrainingDivergedError(
                f"no checkpoint of step {progress.global_step}: learner {unfit[0]} {unfit[1]}; "
                "the checkpoints before it are intact",
                agreed=True,
                learner=unfit[0],
            )
        with backend.consensus():
            consensus = copied(parts.run.model.state_dict()) if parts.world.rank == 0 else None
        parts.checkpoints.save(progress, state, consensus, figure, alike=backend.synchronous)
        self.saved_samples = progress.samples

    def state_dict(self, progress: Progress, units: int) -> dict[str, Any]:
        """A copy of this learner's state, all that a resume needs."""
        state = {
            "model": self.parts.run.model.state_dict(),
            "optimizer": self.parts.optimizer.state_dict(),
            "backend": self.parts.run.backend.state_dict(),
            "hooks": {name: hook.state_dict() for name, hook in self.parts.hooks.items()},
            "bad_steps": self.bad_steps.state_dict(),
            "step": progress.step,
            "units": units,
        }
        return copied(state)

    def load(self, checkpoint: Checkpoint) -> tuple[Progress, int]:
        """Restore a checkpoint; with another number of learners all start from the consensus model.

        Returns:
            Where this learner stands, and the number of units that it has processed.
        """
        world, parts = self.parts.world, self.parts
        same = checkpoint.world_size == world.size
        own = checkpoint.learner_state(world.rank if same else 0, world.device)
        parts.run.model.load_state_dict(own["model"] if same else checkpoint.consensus())
        parts.optimizer.load_state_dict(own["optimizer"])
        parts.run.backend.load_state_dict(checkpoint.backend_states(), world.rank, world.size)
        for name, hook in parts.hooks.items():
            hook.load_state_dict(own["hooks"][name])
        self.bad_steps.load_state_dict(own["bad_steps"])
        progress = checkpoint.progress
        progress.step = own["step"]  # differs between learners without lockstep
        return progress, own["units"] if same else 0
