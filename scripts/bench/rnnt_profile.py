"""A profile of joiner and transducer loss: processor time of each PyTorch operator, forward and backward.

python scripts/bench/rnnt_profile.py --method "ours fp32"
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from asr.training.precision import choose_matmul, flush_denormals
from scripts.bench.rnnt_loss import HEADLINE, METHODS, QUICK, Sizes, forward_backward, random_inputs, timed
from scripts.composition.startup import run_main

SHOWN = 16  # operators


class OperatorTimes(TorchDispatchMode):
    """Seconds of this thread's processor time in each operator, and how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` and record its time."""
        start = time.thread_time()
        result = func(*args, **(kwargs or {}))
        self.seconds[str(func)] += time.thread_time() - start
        self.calls[str(func)] += 1
        return result


def main(arguments: list[str]) -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(METHODS), default="ours fp32", help="what to measure")
    parser.add_argument("--quick", action="store_true", help="a smaller batch")
    options = parser.parse_args(arguments)
    flush_denormals()
    torch.set_num_threads(1)
    print(choose_matmul("auto"))
    inputs, method = random_inputs(Sizes(*(QUICK if options.quick else HEADLINE))), METHODS[options.method]
    with OperatorTimes():
        forward_backward(method, inputs)  # imports and compilation at first use are not measured
    with OperatorTimes() as operators:
        total = timed(lambda: forward_backward(method, inputs))
    print(f"| {options.method} | calls | ms | of {1e3 * total:.0f} ms |\n|---|---|---|---|")
    for name, seconds in sorted(operators.seconds.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f"| `{name}` | {operators.calls[name]} | {1e3 * seconds:.1f} | {seconds / total:.1%} |")
    rest = total - sum(operators.seconds.values())
    print(f"| Python and PyTorch between the operators | | {1e3 * rest:.1f} | {rest / total:.1%} |")


if __name__ == "__main__":
    run_main(main)
