"""What takes minutes: the demo reaches its word error rate; kills at random moments."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.composition.startup import REPOSITORY


@pytest.mark.long
def test_the_demo_recognises_voices_it_has_never_heard(tmp_path: Path) -> None:
    """At most 5 % word errors, greedy, with the small vocabulary."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = [*torchrun, str(REPOSITORY / "scripts" / "train.py"), "experiment=demo", "name=demo", "logger=[]"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(train, cwd=tmp_path, env=environment, check=True, timeout=1800)
    evaluate = [sys.executable, str(REPOSITORY / "scripts" / "evaluate.py"), "run=exp/demo"]
    subprocess.run(evaluate, cwd=tmp_path, env=environment, check=True, timeout=300)
    result = json.loads((tmp_path / "exp" / "demo" / "eval" / "test" / "wer-greedy.json").read_text())
    assert result["reference_words"] > 1000
    assert result["wer"] <= 0.05


@pytest.mark.long
@pytest.mark.parametrize("backend", ["allreduce", "dpsgd"])
def test_kills_at_random_moments(launcher: Any, backend: str) -> None:
    """Ten kills of everything, from start-up to the last checkpoint: nothing is lost but time."""
    run = ("trainer.max_steps=60", "trainer.checkpoint_every=3", "model.encoder.hidden=96", f"backend={backend}")
    launcher.train(2, "name=whole", *run)
    moments = random.Random(7)
    for _ in range(10):
        agent = launcher.start(2, "name=killed", *run)
        time.sleep(moments.uniform(3, 12))
        os.killpg(agent.pid, signal.SIGKILL)
        agent.communicate()
        kill_orphans(launcher.folder)
    launcher.train(2, "name=killed", *run)
    for learner in range(2):
        assert launcher.rows("whole", learner) == launcher.rows("killed", learner)


def kill_orphans(folder: Path) -> None:
    """Kill the learners started in ``folder``: they run in sessions of their own and outlive an agent that is killed."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            started_in = (process / "cwd").readlink()
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # gone meanwhile, or another user's
            continue
        if started_in == folder.resolve() and "train.py" in command:
            os.kill(int(process.name), signal.SIGKILL)
