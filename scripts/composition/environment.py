"""The environment of a result: machine, versions, commit and command, recorded beside every figure."""

import platform
import shlex
import subprocess
import sys
from importlib import metadata
from typing import Any

import torch

from asr.training.processor import cpu_info, extensions, instruction_set
from scripts.composition.startup import REPOSITORY

DISTRIBUTIONS = ("torch", "torchaudio", "numpy", "hydra-core")


def environment() -> dict[str, Any]:
    """Machine, versions and commit, as plain values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": cpu_info("model name") or platform.machine(),
        "instruction_set": instruction_set(),
        "extensions": extensions(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {name: metadata.version(name) for name in DISTRIBUTIONS},
        "commit": git_commit(),
        "command": shlex.join(sys.argv).replace(f"{REPOSITORY}/", ""),
    }


def git_commit() -> str | None:
    """The commit of the working tree, with `+` where files differ from it; None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
