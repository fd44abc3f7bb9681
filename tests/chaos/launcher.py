"""scripts/launch.py whose learners run learner.py of this folder: an entry point for the campaign alone."""

import sys
from collections.abc import Sequence
from pathlib import Path

LAUNCHER = Path(__file__)
LEARNER = LAUNCHER.with_name("learner.py")


def main(arguments: list[str]) -> None:
    """Start the learners of a run, with faults."""
    from scripts.composition import agent
    from scripts.composition.launcher import launch, launch_options

    agent_of = agent.agent_of

    def of_ours(learners: int, restarts: int, line: Sequence[str], folder: str, _: None) -> agent.Agent:
        return agent_of(learners, restarts, ("-u", str(LEARNER), *line[2:]), folder)

    agent.agent_of = of_ours
    options = launch_options(arguments, __doc__ or "")
    assert options is not None
    sys.exit(launch(options))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # in the place of this folder
    from scripts.composition.startup import run_main

    run_main(main)
