"""The table of latencies that hooks=[structured_pruning] needs for objective: milliseconds, measured on this processor.

    python scripts/bench/latency.py --model conformer_s --json exp/latency.json
    python scripts/bench/latency.py --weights exp/my-run --json exp/latency.json
    python scripts/bench/latency.py --weights exp/my-run --arithmetic int8 --json exp/latency-int8.json

Each part of the encoder is run alone at several sizes, on one thread and one utterance of ``--frames`` feature frames; times are
medians of processor time, all sizes in turn. int8 is ONNX Runtime's, as scripts/export.py writes it: each part at each size is exported
before, which takes minutes. Of a run the best checkpoint is measured; weights do not matter, sizes do.
"""

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from asr.models.speech_model import Recogniser
from asr.parts import build
from asr.runs.checkpoint import model_folder_of
from asr.runs.files import write_atomically
from asr.runs.model_folder import load_model
from asr.training.precision import choose_matmul, flush_denormals
from compression.pruning.costs import Extent
from compression.pruning.latency import as_json, measure
from compression.pruning.runtimes import RUNTIMES
from compression.pruning.sites import sites
from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.composition.startup import run_main

SIZES = {"vocabulary_size": 1024, "feature_dimension": 80}


def main(arguments: list[str]) -> None:
    """Measure, print the time of the whole encoder, and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--weights", type=Path, help="a run or a model folder")
    which.add_argument("--model", help=f"an option of conf/model, with {SIZES['feature_dimension']} features")
    parser.add_argument("--json", type=Path, required=True, help="where to save the table")
    parser.add_argument("--frames", type=int, default=1000, help="feature frames of the utterance, of 10 ms")
    parser.add_argument("--arithmetic", choices=RUNTIMES, default="fp32", help="of PyTorch; or int8 of ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each size, in turn")
    options = parser.parse_args(arguments)
    flush_denormals()
    torch.set_num_threads(1)
    choose_matmul("auto")
    model = model_of(options.weights, options.model)
    extent = Extent(options.frames)
    tables = measure(model.encoder, sites(model), extent, options.rounds, options.arithmetic)
    for kind, table in tables.items():
        print(f"{kind}: {table.milliseconds.flatten()[-1]:.3f} ms at its largest size")
    write_atomically(options.json, json.dumps(as_json(tables, extent, options.arithmetic), indent=1) + "\n")


def model_of(weights: Path | None, name: str | None) -> Recogniser:
    """The model of a folder, or of an option of conf/model with weights drawn at random."""
    if weights is not None:
        model = load_model(model_folder_of(weights, "weights"), "weights").model
    else:
        torch.manual_seed(0)
        model = build(compose("train", [f"model={name}"]).model, **SIZES)
    if not isinstance(model, Recogniser):
        raise UsageError(f"{weights or name}: is no recogniser, whose encoder could be measured")
    return model.eval()


if __name__ == "__main__":
    run_main(main)
