"""Exports for streams: ONNX Runtime computes chunks as PyTorch does, and sherpa-onnx writes the texts of the API's streams."""

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
from asr.export.onnx_files import write_network
from asr.export.sherpa import Fitting, fitting, networks, streaming_encoder
from asr.models.streaming import ConformerStream, chunked
from asr.recogniser import Transcriber, load
from asr.runs.model_folder import load_model
from distributed.errors import UserError
from scripts.export import main
from tests.unit.asr.recordings import RATE, speech
from tests.unit.asr.test_speech_stream import CHUNKED

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("sherpa_onnx")
pytestmark = pytest.mark.usefixtures("one_registry")

Run = Callable[..., Path]
STATELESS = (*CHUNKED, "model/predictor=stateless")
PRUNED = (
    "model.encoder.head_dimension=8",
    "model.encoder.blocks=[{feed_forward_in: 24, heads: 2, channels: 40, feed_forward_out: 7, width: [0, 3, 4, 9, 17, 31]}, {feed_forward_in: 0, heads: 0, channels: 16, feed_forward_out: 9}]",
)
OTHERS = {  # an export takes seconds, so that a choice of sizes is shown together with one of features
    "lstm": CHUNKED,
    "client's features, pruned": (*STATELESS, "features._target_=asr.data.sherpa_features.SherpaLogMel", *PRUNED),
}
ALONE = (*STATELESS, "features.stack=2", "model.encoder.left_chunks=0", "model.encoder.kernel=1")


def parts_of(run: Path) -> Fitting:
    (folder,) = (run / "checkpoints").glob("step-*")
    return fitting(load_model(folder), history=64, streaming=True)


@torch.no_grad()
def check_encoder(path: Path, parts: Fitting, tolerance: float) -> float:
    """Streams that began at different times, in one batch: largest error against each alone in PyTorch."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    module, chunks, late = streaming_encoder(parts), 6, 2
    generator = torch.Generator().manual_seed(0)
    mel = 3 * torch.randn(2, chunks * module.mel_frames, parts.features.num_mels, generator=generator) - 5
    expected = []
    for row in mel:
        own = parts.features.in_context(row)[None]
        stream = ConformerStream(chunked(parts.model.encoder))
        states = [stream.push(each) for each in own.split(stream.chunk_frames, dim=1)]
        expected.append(parts.model.joiner.project_encoder(torch.cat(states, dim=1))[0])
    states = [[each.numpy() for each in module.start(1)] for _ in mel]
    found: list[list[torch.Tensor]] = [[], []]
    for chunk in range(chunks + late):
        rows = [row for row in (0, 1) if 0 <= chunk - late * row < chunks]
        x = [mel[row].split(module.mel_frames)[chunk - late * row] for row in rows]
        attn, conv = (np.concatenate([states[row][kind] for row in rows], axis=2) for kind in (0, 1))
        given = (torch.stack(x).numpy(), attn, conv, np.array([chunk * module.mel_frames] * len(rows)))
        outputs, attn, conv = session.run(None, dict(zip(names, given, strict=True)))
        for place, row in enumerate(rows):
            found[row].append(torch.from_numpy(outputs[place]))
            states[row] = [attn[:, :, place : place + 1], conv[:, :, place : place + 1]]
    errors = [(torch.cat(one) - other).norm() / other.norm() for one, other in zip(found, expected, strict=True)]
    assert max(errors) <= tolerance
    return float(max(errors))


def test_chunks_that_see_themselves_alone_are_those_of_pytorch(random_run: Run, tmp_path: Path) -> None:
    parts = parts_of(random_run("run", *ALONE))
    write_network(next(iter(networks(parts)))[1], tmp_path / "encoder.onnx")
    check_encoder(tmp_path / "encoder.onnx", parts, 1e-5)


def text_of_stream(model: Transcriber, samples: np.ndarray) -> str:
    """The text of the chunks that the client computes, each when the frame after it is there, ours a frame earlier."""
    stream = model.stream()
    stream.accept(samples[: -model.features.shift_samples])
    return " ".join(stream.partial.text.split())


@pytest.mark.parametrize("overrides", OTHERS.values(), ids=OTHERS)
def test_the_client_writes_what_the_stream_does(overrides: tuple[str, ...], random_run: Run, tmp_path: Path) -> None:
    run = random_run("run", *overrides)
    main([f"run={run}", "format=onnx_streaming", "changed_texts=1", "history=64"])
    folder, parts = run / "export" / "onnx_streaming", parts_of(run)
    check_encoder(folder / "encoder.onnx", parts, 1e-5)
    assert check_encoder(folder / "encoder.int8.onnx", parts, 0.1) > 0

    model = load(run, decode=Greedy(max_symbols=1))
    tail = json.loads((folder / "client.json").read_text())["tail_seconds"]
    texts, files = [], []
    for index in range(20):
        files.append(str(tmp_path / f"{index}.wav"))
        soundfile.write(files[-1], speech(0.4 + 0.07 * index, seed=index), RATE)
        samples, _ = soundfile.read(files[-1], dtype="float32")
        texts.append(text_of_stream(model, np.append(samples, np.zeros(round(tail * RATE), dtype=np.float32))))
    assert len(set(texts)) > 10, "the model says different things"
    bad = tmp_path / "schön.wav"
    bad.write_text("not audio")
    done = subprocess.run(
        [sys.executable, str(folder / "transcribe.py"), str(bad), *files], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("not transcribed: ")
    assert [" ".join(json.loads(line)["text"].split()) for line in done.stdout.splitlines()] == texts
    card = (folder / "README.md").read_text()
    assert "online conformer (chunks of 0.12 s, 6 states before them seen) layout" in card
    assert "| int8 | " in card


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), r"^model\.encoder: a BidirectionalLstm reads utterances from both ends"),
        (("model=conformer_tiny",), r"^model\.encoder\.chunk=null: .*train with model\.encoder\.chunk=16"),
        ((*CHUNKED, "features.normalise=utterance"), r"^features\.normalise=utterance: .*features\.normalise=none$"),
        ((*CHUNKED, "features.deltas=1"), r"^features\.deltas=1: .*train with features\.deltas=0$"),
    ],
)
def test_what_has_no_chunks_is_refused_before_anything_is_written(
    overrides: tuple[str, ...], message: str, random_run: Run
) -> None:
    run = random_run("run", *overrides)
    with pytest.raises(UserError, match=message):
        main([f"run={run}", "format=onnx_streaming"])
    assert not (run / "export").exists()
