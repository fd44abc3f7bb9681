"""Packed models against fp32: size of the files, time of the encoder on one thread, memory of loading and encoding.

    python scripts/bench/packed_models.py --json docs/results/packed-models.json

Sizes are those of written files, headers included, of randomly drawn weights: model=ibm_rnnt with all layers at 4 bits, and with
the encoder's first layer in full precision; model=conformer_m at 4 bits. Times are medians of the processor time of the encoders of model=ibm_rnnt
and model=conformer_s over noise of 200 states, all versions in turn in one process; ONNX Runtime's fp32 and its dynamic int8 are
those of scripts/export.py. Memory is what the peak of a process grows by while it
loads a model folder and encodes one such utterance; each version has a process of its own.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from asr.data.tokenizer import CharacterTokenizer
from asr.models.speech_model import SpeechModel
from asr.models.transducer import Transducer
from asr.parts import build, plain
from asr.runs.misfit import built_on_meta
from asr.runs.model_folder import WEIGHTS, Description, LoadedModel, load_model, read_description, save_model
from asr.training.precision import choose_matmul, flush_denormals
from compression.quantization.activations import LearnedBounds
from compression.quantization.codes import FLOAT, Engine
from compression.quantization.onnx_engine import ONNX, installed
from compression.quantization.pack import ENCODING
from compression.quantization.packed import PackedLayer
from compression.quantization.transform import transform_node
from scripts.bench.exported_encoders import ONNX_FP32, ONNX_INT8, onnx_encoders
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

STATES, FEATURES = 200, 120
TIMED = ("ibm_rnnt", "conformer_s")  # models of conf/model; figures without a name are of the first
BOUND = 4.0  # of features of unit variance
ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789'-.,!?%&"
TOKENIZER = CharacterTokenizer(alphabet=ALPHABET, case="lower")
EVERYTHING: list[dict[str, Any]] = [{"modules": "*"}]
FIRST_LAYER_FP32 = [{"modules": "encoder.layers.0.*", "bits": None}, *EVERYTHING]
PACK: dict[str, Any] = {"_target_": "compression.quantization.pack.Packed", "encoding": ENCODING}
ENGINES: dict[str, Engine | None] = {
    "fp32": None,
    "twins": None,
    "codes, fp32 sums": FLOAT,
    "codes, ONNX Runtime": ONNX,
}


def main(arguments: list[str]) -> None:
    """Print tables in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="the sizes of model=ibm_rnnt alone")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each version, in turn")
    parser.add_argument("--grown-by", nargs=2, metavar=("FOLDER", "VERSION"), help="print the growth of one process")
    options = parser.parse_args(arguments)
    flush_denormals()
    torch.set_num_threads(1)
    choose_matmul("auto")
    with torch.no_grad():
        if options.grown_by:
            print(json.dumps(growth(Path(options.grown_by[0]), options.grown_by[1])))
        else:
            _measure(options)


def _measure(options: argparse.Namespace) -> None:
    made_with = environment()
    with tempfile.TemporaryDirectory() as folder:
        rows = sizes(Path(folder), quick=options.quick)
        if not options.quick:
            rows += [
                row for model in TIMED for batch in (1, 8) for row in times(model, batch, options.rounds, Path(folder))
            ]
            rows += memory(Path(folder))
    table(rows)
    if options.json is not None:
        save_figures(options.json, figures(rows), rows, made_with)


def description(model: str, transforms: list[dict[str, Any]]) -> Description:
    """A folder's description of a model of conf/model."""
    config = compose("train", [f"model={model}"])
    node = plain(config.model) | {"vocabulary_size": TOKENIZER.vocabulary_size, "feature_dimension": FEATURES}
    return Description(model=node, features=None, tokenizer=TOKENIZER.fingerprint, transforms=transforms)


def drawn(model: str) -> LoadedModel:
    """A model of conf/model with random weights."""
    torch.manual_seed(0)
    described = description(model, [])
    return LoadedModel(described.build(), None, TOKENIZER, described, {})


def versions(dense: LoadedModel, scheme: Sequence[dict[str, Any]]) -> dict[str, LoadedModel]:
    """A model as it is, with quantised twins, and packed; the same weights."""
    quantize = transform_node(scheme, "scheme", bits=4, weights="sawb", groups="gate", inputs="max", hidden="fixed")
    made, found = dense.model, {}
    steps: list[tuple[str, list[dict[str, Any]]]] = [
        ("fp32", []), ("twins", [quantize]), ("packed", [quantize, PACK]),
    ]  # fmt: skip
    for name, transforms in steps:
        if transforms:
            made = build(transforms[-1])(copy.deepcopy(made)).eval()
        for each in made.modules():
            if isinstance(each, LearnedBounds) and not each.calibrated:
                each.set_bounds(-BOUND, BOUND)
        found[name] = replace(dense, model=made, description=replace(dense.description, transforms=transforms))
    return found


def sizes(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Bytes of the weights' files. The folders of the first row stay, for ``memory``."""
    cases = [("ibm_rnnt", "all 4 bits", EVERYTHING)]
    if not quick:
        cases += [("ibm_rnnt", "first layer fp32", FIRST_LAYER_FP32), ("conformer_m", "all 4 bits", EVERYTHING)]
    rows = []
    for model, kind, scheme in cases:
        size = {}
        for name, loaded in versions(drawn(model), scheme).items():
            final = folder / f"{model}-{kind.replace(' ', '-')}-{name}"
            save_model(loaded, final)
            size[name] = (final / WEIGHTS).stat().st_size
        ratio = size["fp32"] / size["packed"]
        rows.append({"measured": "size", "model": model, "version": kind, "bytes": size["packed"], "ratio": ratio})
    return rows


def encoding(model: SpeechModel, batch: int) -> Callable[[], Any]:
    """One call of the encoder over utterances of full length."""
    assert isinstance(model, Transducer)
    frames = STATES * model.subsampling
    features_BTF, lengths_B = torch.randn(batch, frames, FEATURES), torch.full((batch,), frames)
    return lambda: model.encode(features_BTF, lengths_B)


def times(name_of_model: str, batch: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Seconds of the encoder, after a round that is not counted; ratios are those of fp32 over the version."""
    made = versions(drawn(name_of_model), EVERYTHING)
    calls: dict[str, Callable[[], Any]] = {}
    for name in ENGINES:
        model = copy.deepcopy(made[name if name in made else "packed"].model)
        if name == "codes, ONNX Runtime" and not installed():
            continue
        compute_with(model, ENGINES[name])
        calls[name] = encoding(model, batch)
    calls |= exported(made["fp32"].model, batch, folder)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for place in range(rounds + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if place > 0:
                seconds[name].append(time.process_time() - started)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    return [
        {"measured": "time", "model": f"{name_of_model} encoder", "version": name, "utterances": batch, "seconds": each,
         "ratio": middle["fp32"] / each, "rounds": rounds}
        for name, each in middle.items()
    ]  # fmt: skip


def exported(model: SpeechModel, batch: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """The same calls of the encoder as ONNX Runtime has it; none where it is not installed."""
    if not installed():
        return {}
    assert isinstance(model, Transducer)
    frames = STATES * model.subsampling
    features_BTF, lengths_B = torch.randn(batch, frames, FEATURES), torch.full((batch,), frames)
    found = onnx_encoders(model.encoder, FEATURES, folder)
    return {name: partial(encode, features_BTF, lengths_B) for name, encode in found.items()}


def compute_with(model: SpeechModel, engine: Engine | None) -> None:
    """Let every packed layer compute with an engine."""
    for layer in model.modules():
        if isinstance(layer, PackedLayer):
            layer.compute_with(engine)


def memory(folder: Path) -> list[dict[str, Any]]:
    """Growth of a process each."""
    rows = []
    for name in ENGINES:
        if name == "codes, ONNX Runtime" and not installed():
            continue
        kind = name if name in ("fp32", "twins") else "packed"
        command = [sys.executable, __file__, "--grown-by", str(folder / f"ibm_rnnt-all-4-bits-{kind}"), name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append({"measured": "memory", "model": "ibm_rnnt", "version": name, **json.loads(done.stdout)})
    return [{**row, "ratio": rows[0]["grown_by_bytes"] / row["grown_by_bytes"]} for row in rows]


def growth(folder: Path, version: str) -> dict[str, int]:
    """How far the peak of this process rises over what it held before, by loading a folder and encoding an utterance."""
    built_on_meta(read_description(folder)[0].build)  # what torch imports for that is no part of the model
    torch.randn(64, 64) @ torch.randn(64, 64)
    if ENGINES[version] is ONNX:
        ONNX.product(torch.ones(2, 2, dtype=torch.int8), 1, 1)(torch.ones(1, 2))
    before = peak()
    model = load_model(folder).model
    compute_with(model, ENGINES[version])
    loaded = peak()
    encoding(model, 1)()
    return {"grown_by_bytes": peak() - before, "by_loading_bytes": loaded - before}


def peak() -> int:
    """The most memory that this program has held, in bytes, on Linux; getrusage would count what started it as well."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print all rows; ratios are fp32 over the version."""
    print("| measured | model | version | utterances | value | fp32 over it |\n|---|---|---|---|---|---|")
    for row in rows:
        value = (
            f"{row['seconds']:.3f} s"
            if "seconds" in row
            else f"{row.get('bytes', row.get('grown_by_bytes', 0)) / 1e6:.1f} MB"
        )
        cells = [row["measured"], row["model"], row["version"], row.get("utterances", ""), value, f"{row['ratio']:.2f}"]
        print(f"| {' | '.join(map(str, cells))} |")


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Ratios of fp32 over codes: of size, of time and of memory."""
    named = {
        ("size", "ibm_rnnt", "all 4 bits"): "size_ratio/int4",
        ("size", "ibm_rnnt", "first layer fp32"): "size_ratio/int4_first_layer_fp32",
        ("size", "conformer_m", "all 4 bits"): "size_ratio/int4_conformer_m",
        ("memory", "ibm_rnnt", "codes, fp32 sums"): "memory_ratio/int4_codes_fp32",
        ("memory", "ibm_rnnt", "codes, ONNX Runtime"): "memory_ratio/int4_codes",
    }
    found = {
        named[key]: row["ratio"] for row in rows if (key := (row["measured"], row["model"], row["version"])) in named
    }
    kinds = {"codes, ONNX Runtime": "int4_codes", ONNX_INT8: "int8", ONNX_FP32: "onnx_fp32"}
    for row in rows:
        if row["measured"] == "time" and row["version"] in kinds:
            batch = "" if row["utterances"] == 1 else "_batch_8"
            model = "" if row["model"].startswith(TIMED[0]) else f"_{row['model'].partition(' ')[0]}"
            found[f"rtf_ratio/{kinds[row['version']]}{batch}{model}"] = row["ratio"]
    return found


if __name__ == "__main__":
    run_main(main)
