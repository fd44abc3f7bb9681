"""scripts/train.py with the injector of faults beside the configured hooks: an entry point for the campaign alone.

A configuration can name only what lies in the project's packages, so the injector comes in here; the plan of faults and
the pace are in the environment.
"""

import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Train a recogniser, with faults."""
    from omegaconf import DictConfig

    from asr.training.hook import Hook
    from scripts.composition import training
    from scripts.composition.build import build_hooks
    from tests.chaos.injector import PACE, PLAN, Injector

    def with_injector(config: DictConfig) -> dict[str, Hook]:
        return build_hooks(config) | {"injector": Injector(plan=os.environ[PLAN], pace=float(os.environ[PACE]))}

    training.build_hooks = with_injector
    training.train("train", arguments)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # in the place of this folder
    from scripts.composition.startup import run_and_leave

    run_and_leave(main)
