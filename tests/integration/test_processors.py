"""On a processor without AVX-512, or as on one: a bf16 run of a model with LSTMs trains and is decoded, and says in what."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.composition.startup import REPOSITORY

AVX2_ALONE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # read when torch starts

CHILD = """
import json, logging, sys
from pathlib import Path
import torch
from torch import nn
from asr.training.arithmetic import agree_on_precision
from distributed.learners.world import World
from scripts.evaluate import main as evaluate
from scripts.train import main as train

torch.set_num_threads(1)
assert torch.backends.cpu.get_cpu_capability() == "AVX2"
try:
    with torch.autocast("cpu", torch.bfloat16):
        nn.LSTM(4, 4)(torch.zeros(2, 1, 4))
except RuntimeError as error:
    print("torch says:", error)
train([*json.loads(sys.argv[1]), "name=run"])
Path("exp/run/arithmetic.json").unlink()  # as if begun on a processor that has bf16
evaluate(["run=exp/run", "sets=[dev]"])
alone = World(0, 1, 0, 1, torch.device("cpu"), None)
print("stateless:", agree_on_precision("bf16", nn.Linear(4, 4), Path("."), alone))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is of x86-64 processors")
def test_a_bf16_run_without_avx512(tmp_path: Path, small_overrides: Callable[..., list[str]]) -> None:
    """In one process, since what torch may use is settled when it starts."""
    overrides = small_overrides("trainer.precision=bf16", "trainer.max_steps=2", "backend=single", "hooks=[]")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(overrides)],
        cwd=tmp_path,
        env=os.environ | AVX2_ALONE | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "torch says: could not create a primitive descriptor for the LSTM" in done.stdout
    first, *lines = done.stderr.splitlines()
    assert first.startswith("instruction set AVX2")
    cannot = (
        "trainer.precision=bf16: this processor (AVX2) cannot make the model's LSTM in bf16: the run computes in fp32"
    )
    assert lines.count(cannot) == 1
    assert "step 2" in done.stdout
    assert "trained in bf16, which this processor (AVX2) does not have: decoding in fp32" in lines
    assert (tmp_path / "exp" / "run" / "eval" / "dev" / "wer-greedy.txt").is_file()
    assert (
        json.loads((tmp_path / "exp" / "run" / "summary.json").read_text())["environment"]["instruction_set"] == "AVX2"
    )
    assert "stateless: bf16" in done.stdout
    (slow,) = [line for line in lines if "bf16 is slow on this processor (AVX2)" in line]
    assert float(slow.partition("takes ")[2].split()[0]) > 3
