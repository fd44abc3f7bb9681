"""Exports of models that passes have changed: sherpa-onnx writes the API's texts, also with the int8 files of few bits."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.decoding.greedy import Greedy
from asr.export.onnx_files import write_int8, write_network
from asr.export.sherpa import networks
from asr.recogniser import Transcriber, load
from asr.runs.model_folder import load_model
from scripts.composition.exporting import fitting_forms
from scripts.compress import main as compress
from scripts.export import main
from tests.unit.asr.recordings import RATE, speech
from tests.unit.compression.test_every_pass import draw_masks
from tests.unit.scripts.test_export import check_encoder, session
from tests.unit.scripts.test_export_streaming import text_of_stream

pytest.importorskip("onnxscript")
pytest.importorskip("sherpa_onnx")
pytestmark = pytest.mark.usefixtures("one_registry")
onnx = pytest.importorskip("onnx")

Run = Callable[..., Path]
LSTM = (
    "model=lstm_tiny", "model.encoder.layers=1", "model.encoder.hidden=24", "model.predictor.dimension=16",
    "model.predictor.embedding=8",
)  # fmt: skip
CONFORMER = (
    "model=conformer_tiny", "model/predictor=stateless", "model.encoder.layers=1", "model.encoder.dimension=32",
    "features._target_=asr.data.sherpa_features.SherpaLogMel",
)  # fmt: skip
CHUNKED = (*CONFORMER, "model.encoder.chunk=3", "model.encoder.left_chunks=2", "features.normalise=none")
HISTORY = 64
LOW_RANK = ("pass=low_rank", "pass.sparsity=0.1")


def passed(run: Path, *passes: tuple[str, ...]) -> Path:
    """The model folder after one pass after the other."""
    (folder,) = (run / "checkpoints").glob("step-*")
    for place, settings in enumerate(passes):
        name = f"after-{place}"
        compress([f"run={run}", f"weights={folder}", f"name={name}", *settings])
        folder = run / "export" / name
    return folder


def write_speech(folder: Path) -> list[str]:
    """Twelve recordings of different lengths."""
    files = [str(folder / f"{index}.wav") for index in range(12)]
    for index, file in enumerate(files):
        soundfile.write(file, speech(0.5 + 0.1 * index, seed=index), RATE)
    return files


def texts_of(folder: Path, *options: str) -> list[str]:
    """What the client writes of recordings."""
    command = [sys.executable, str(folder / "transcribe.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Removing initializer" not in done.stderr
    return [" ".join(json.loads(line)["text"].split()) for line in done.stdout.splitlines()]


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def texts_of_networks(folder: Path, suffix: str, model: Transcriber, files: list[str]) -> list[str]:
    """What ONNX Runtime's networks write of our own energies, by the client's search."""
    run = {name: session(folder, f"{name}{suffix}") for name in ("encoder", "decoder", "joiner")}
    context = getattr(model.inference.model.predictor, "context", HISTORY)
    texts = []
    for file in files:
        mel = model.features.mel(torch.from_numpy(soundfile.read(file, dtype="float32")[0]))
        (states,), _ = run["encoder"](mel[None], torch.tensor([len(mel)]))
        tokens: list[int] = []
        for state in states:
            read = [-1] * (context - 1) + [0, *tokens]
            (output,) = run["decoder"](torch.tensor([read[-context:]]))
            (scores,) = run["joiner"](state[None], output)
            if best := int(scores.argmax()):
                tokens.append(best)
        texts.append(" ".join(model.tokenizer.decode(tokens).split()))
    return texts


def check(run: Path, weights: Path, tmp_path: Path, *, int8_too: bool, may_differ: int = 0) -> Path:
    """Of our energies the networks write the API's texts, and so does the client of its own.

    ``may_differ``: of how many of the client's texts the last digits of its energies decide, as they do where a model rounds.
    """
    main([f"run={run}", f"weights={weights}", "changed_texts=1", f"history={HISTORY}", "name=out"])
    folder = run / "export" / "out"
    files = write_speech(tmp_path)
    model = load(weights, decode=Greedy(max_symbols=1))
    expected = [" ".join(each.text.split()) for each in model.transcribe(files, alignment=False)]
    assert len(set(expected)) > 5, "the model says different things"
    for suffix, options in [("", []), (".int8", ["--int8"])] if int8_too else [("", [])]:
        assert texts_of_networks(folder, suffix, model, files) == expected
        found = texts_of(folder, *files, *options)
        assert sum(one != other for one, other in zip(found, expected, strict=True)) <= may_differ
    return folder


@torch.no_grad()
def test_few_bits_are_products_of_codes_and_nothing_is_quantised_twice(random_run: Run, tmp_path: Path) -> None:
    run = random_run("run", *CONFORMER)
    _, on_codes = fitting_forms(load_model(passed(run, ("pass=int4",), ("pass=pack",))), 64, streaming=False)
    assert on_codes is not None
    name, network = next(networks(on_codes))
    write_network(network, tmp_path / "whole.onnx")
    write_int8(tmp_path / "whole.onnx", tmp_path / f"{name}.onnx")
    check_encoder(tmp_path, on_codes)
    found = operators(tmp_path / "encoder.onnx")
    assert found.count("MatMulInteger") > 8
    assert "DynamicQuantizeLinear" not in found


@pytest.mark.long
def test_the_client_writes_what_the_api_does_with_a_low_rank(random_run: Run, tmp_path: Path) -> None:
    run = random_run("run", *LSTM)
    folder = check(run, passed(run, LOW_RANK), tmp_path, int8_too=False)
    found = operators(folder / "encoder.onnx")
    assert (found.count("LSTM"), found.count("MatMul")) == (2, 3), "a thin product before each LSTM, and the projection"
    assert "| layers changed by | LowRank |" in (folder / "README.md").read_text()


@pytest.mark.long
def test_the_client_writes_what_the_api_does_with_a_packed_conformer(random_run: Run, tmp_path: Path) -> None:
    run = random_run("run", *CONFORMER)
    folder = check(run, passed(run, ("pass=int4",), ("pass=pack",)), tmp_path, int8_too=True)
    assert "| layers changed by | Quantize, Packed |" in (folder / "README.md").read_text()
    assert (folder / "encoder.int8.onnx").stat().st_size < (folder / "encoder.onnx").stat().st_size


@pytest.mark.long
def test_the_client_writes_what_the_api_does_with_units_removed(random_run: Run, tmp_path: Path) -> None:
    run = random_run("run", *CONFORMER)
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    draw_masks(checkpoint)
    folder = check(run, passed(run, ("pass=prune", "pass.sparsity=0.4", "pass.scope=model")), tmp_path, int8_too=False)
    whole, small = (
        sum(each.numel() for each in load_model(each).model.parameters())
        for each in (checkpoint, run / "export" / "after-0")
    )
    assert small < 0.65 * whole
    assert (folder / "encoder.int8.onnx").stat().st_size < (folder / "encoder.onnx").stat().st_size


@pytest.mark.long
@pytest.mark.parametrize("bits", [4, 8])
def test_an_lstm_of_few_bits_after_low_rank(bits: int, random_run: Run, tmp_path: Path) -> None:
    run = random_run("run", *LSTM)
    weights = passed(run, LOW_RANK, (f"pass=int{bits}",))
    folder = check(run, weights, tmp_path, int8_too=True, may_differ=int(bits == 8))  # 1 of 12 was seen
    assert operators(folder / "encoder.onnx").count("Scan") == 2
    assert operators(folder / "decoder.onnx").count("Scan") == 1


@pytest.mark.long
def test_a_stream_of_few_bits(random_run: Run, tmp_path: Path) -> None:
    run = random_run("run", *CHUNKED)
    weights = passed(run, ("pass=int4",))
    main([f"run={run}", f"weights={weights}", "changed_texts=1", "format=onnx_streaming", "name=out"])
    files = write_speech(tmp_path)
    folder, model = run / "export" / "out", load(weights, decode=Greedy(max_symbols=1))
    tail = np.zeros(round(json.loads((folder / "client.json").read_text())["tail_seconds"] * RATE), dtype=np.float32)
    heard = [np.append(soundfile.read(file, dtype="float32")[0], tail) for file in files]
    expected = [text_of_stream(model, each) for each in heard]
    assert len(set(expected)) > 5, "the model says different things"
    assert texts_of(folder, *files) == expected
    assert texts_of(folder, *files, "--int8") == expected
