"""Exports: ONNX Runtime computes what PyTorch does, and sherpa-onnx itself writes the texts of the API."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.decoding.greedy import Greedy
from asr.export.lstm import OnnxLstm, gates_of_onnx, with_onnx_lstms
from asr.export.onnx_files import ExportError, write_network
from asr.export.sherpa import Fitting, fitting, networks
from asr.models.predictor import StatelessPredictor
from asr.models.recurrence import Lstm
from asr.recogniser import load
from asr.runs.model_folder import load_model
from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.composition.exporting import name_of_data, one_symbol
from scripts.composition.trained import load_trained
from scripts.evaluate import main as evaluate
from scripts.export import main

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("sherpa_onnx")
pytestmark = pytest.mark.usefixtures("one_registry")

Run = Callable[..., Path]
CONFORMER = (
    "model=conformer_tiny", "model/predictor=stateless", "model.encoder.layers=2", "model.encoder.dimension=32",
    "features._target_=asr.data.sherpa_features.SherpaLogMel",
)  # fmt: skip
LSTM = (
    "model=lstm_tiny", "model.encoder.layers=2", "model.encoder.hidden=24", "model.predictor.dimension=20",
    "model.predictor.layers=2", "features.deltas=1", "model.joiner.combine=multiply",
)  # fmt: skip
STOCK = """
import json, sys, sherpa_onnx, soundfile
rate, mels, *files = sys.argv[1:]
client = sherpa_onnx.OfflineRecognizer.from_transducer(
    encoder="encoder.onnx", decoder="decoder.onnx", joiner="joiner.onnx", tokens="tokens.txt",
    sample_rate=int(rate), feature_dim=int(mels),
)
for file in files:
    stream = client.create_stream()
    samples, rate = soundfile.read(file, dtype="float32")
    stream.accept_waveform(rate, samples)
    client.decode_stream(stream)
    print(json.dumps({"file": file, "text": stream.result.text}))
"""


def parts_of(run: Path) -> Fitting:
    (folder,) = (run / "checkpoints").glob("step-*")
    return fitting(load_model(folder), history=256)


def texts_of(command: list[str], folder: Path) -> list[str]:
    """Texts of a client, by file; its errors end its process, so that it has one of its own."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["text"].strip() for line in done.stdout.splitlines()]


def session(folder: Path, name: str) -> Callable[..., list[Tensor]]:
    made = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    names = [each.name for each in made.get_inputs()]
    return lambda *given: [
        torch.from_numpy(each)
        for each in made.run(None, dict(zip(names, (each.numpy() for each in given), strict=True)))
    ]


def check_bad_files(folder: Path, good: str) -> None:
    """The client goes on after a file that it cannot read, and writes names and texts in ASCII."""
    bad = folder / "schön\n.wav"
    bad.write_text("not audio")
    command = [sys.executable, str(folder / "transcribe.py"), str(bad), good, "--batch=2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("not transcribed: ")
    assert line.isascii()
    (row,) = done.stdout.splitlines()
    assert row.isascii()
    assert json.loads(row)["file"] == good
    refused = subprocess.run([*command, "--batch=0"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--batch and --threads must be at least 1" in refused.stderr
    bad.unlink()


def check_encoder(folder: Path, parts: Fitting) -> None:
    """Within 1e-4 of PyTorch, with batches of other sizes than the exporter saw, each row as if it were alone."""
    model, generator = parts.model, torch.Generator().manual_seed(0)
    encoder = session(folder, "encoder")
    for lengths in ([200], [101, 1, 57], [8, 3, 5, 8, 2]):
        mel = 3 * torch.randn(len(lengths), max(lengths), parts.features.num_mels, generator=generator) - 5
        states, counts = encoder(mel, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            own = parts.features.in_context(parts.features.normalise(mel[row, :length]))
            expected, _ = model.encode(own[None], torch.tensor([len(own)]))
            assert counts[row] == expected.shape[1]
            projected = model.joiner.project_encoder(expected)[0]
            torch.testing.assert_close(states[row, : counts[row]], projected, rtol=0, atol=1e-4)


def check_networks(folder: Path, parts: Fitting) -> None:
    """Within 1e-4 of PyTorch, with batches of other sizes than the exporter saw, each row as if it were alone."""
    check_encoder(folder, parts)
    model, generator = parts.model, torch.Generator().manual_seed(0)
    decoder, joiner = session(folder, "decoder"), session(folder, "joiner")
    histories = [[], [3], [1, 2, 3, 4, 5], list(range(1, 9)) * 3]
    read = torch.full((len(histories), parts.context), -1)
    for row, history in enumerate(histories):
        read[row] = torch.tensor(([-1] * parts.context + [0, *history])[-parts.context :])
    (outputs,) = decoder(read)
    for row, history in enumerate(histories):
        inputs = torch.tensor([history], dtype=torch.int64)
        expected = model.joiner.project_predictor(model.predictor(inputs)[:, -1])[0]
        torch.testing.assert_close(outputs[row], expected, rtol=0, atol=1e-4)
    left, right = torch.randn(2, 7, model.joiner.dimension, generator=generator)
    torch.testing.assert_close(joiner(left, right)[0], model.joiner.logits(left, right), rtol=0, atol=1e-4)


def check_int8(folder: Path, parts: Fitting) -> None:
    """Near fp32 also for large inputs, where 8-bit weights saturate on processors without VNNI."""
    mel = 30 * torch.randn(3, 160, parts.features.num_mels, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([160, 90, 31])
    exact, _ = session(folder, "encoder")(mel, lengths)
    small, _ = session(folder, "encoder.int8")(mel, lengths)
    assert 0 < (small - exact).norm() / exact.norm() < 0.1
    assert (folder / "encoder.int8.onnx").stat().st_size < (folder / "encoder.onnx").stat().st_size


@torch.no_grad()
@pytest.mark.parametrize("overrides", [LSTM, CONFORMER], ids=["lstm", "conformer"])
def test_the_client_writes_what_the_api_does(
    overrides: tuple[str, ...], random_run: Run, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = random_run("run", *overrides)
    evaluate([f"run={run}", "sets=[dev]"])
    main([f"run={run}", "changed_texts=1", "licence=CC-BY-4.0"])
    folder, parts = run / "export" / "onnx", parts_of(run)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{folder}: onnx of step-")
    check_networks(folder, parts)
    check_int8(folder, parts)

    files = sorted(map(str, tiny_corpus.glob("*.wav")))
    model = load(run, decode=Greedy(max_symbols=1))
    expected = [" ".join(each.text.split()) for each in model.transcribe(files, alignment=False)]
    assert len(set(expected)) > 5, "the model says different things"
    client = [str(folder / "transcribe.py"), *files]
    for texts in (texts_of(client, folder), texts_of([*client, "--batch=7"], folder)):
        assert [" ".join(text.split()) for text in texts] == expected
    check_bad_files(folder, files[0])
    features = parts.features
    if not features.whole_frames_only:
        stock = texts_of(["-c", STOCK, str(features.sample_rate), str(features.num_mels), *files], folder)
        assert [" ".join(text.split()) for text in stock] == expected, "also as any client is made"

    card = (folder / "README.md").read_text()
    assert "| licence | CC-BY-4.0 |" in card
    record = json.loads((run / "eval" / "dev" / "wer-greedy.json").read_text())
    assert f"| dev | greedy | {100 * record['wer']:.2f} % |" in card
    assert "| dev | greedy, one symbol per state | " in card
    assert ("from_transducer(" in card) is (not features.whole_frames_only)
    assert (folder / "tokens.txt").read_text().splitlines()[0] == "<blk> 0"
    if isinstance(parts.model.predictor, StatelessPredictor):
        assert parts.context == parts.model.predictor.context


SIZES = {  # an export takes seconds
    "chunks of a pruned conformer": (*CONFORMER, "model.encoder.chunk=8", "model.encoder.left_chunks=1", "model.encoder.head_dimension=8", "model.encoder.blocks=[{feed_forward_in: 24, heads: 2, channels: 20, feed_forward_out: 7, width: [0, 3, 4, 9, 15]}, {feed_forward_in: 0, heads: 0, channels: 16, feed_forward_out: 9}]"),
    "pruned lstm": (*LSTM, "model.encoder.hidden=[[24, 20], [9, 16]]"),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("overrides", SIZES.values(), ids=SIZES)
def test_encoders_with_chunks_and_with_sizes_per_layer_fit(
    overrides: tuple[str, ...], random_run: Run, tmp_path: Path
) -> None:
    parts = parts_of(random_run("run", *overrides))
    name, network = next(networks(parts))
    write_network(network, tmp_path / f"{name}.onnx")
    check_encoder(tmp_path, parts)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=ctc_conformer_tiny",), r"format=onnx is a transducer's layout"),
        (("features.dither=1",), r"features.dither=1: the client has 0; train with features.dither=0"),
        (("features.frame_shift_ms=12.5",), r"features.frame_shift_ms=12.5: the client has 10; train with"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    overrides: tuple[str, ...], message: str, random_run: Run
) -> None:
    run = random_run("run", *overrides)
    with pytest.raises(ExportError, match=f"^{message}"):
        main([f"run={run}"])
    assert not (run / "export").exists()


def test_a_model_that_needs_several_symbols_per_state_is_refused(random_run: Run) -> None:
    run = random_run("run")
    with pytest.raises(
        ExportError, match=r"^the client emits at most one symbol per state, which changes \d of 6 texts"
    ):
        main([f"run={run}"])
    with pytest.raises(UsageError, match=r"^name=\.\./x: must be the name of a folder"):
        main([f"run={run}", "name=../x"])


def test_the_word_errors_on_the_card_are_those_of_the_clients_search(random_run: Run) -> None:
    run = random_run("run")
    config = compose("export", [f"run={run}", "changed_texts=1"])
    _, [(name, search, figures)] = one_symbol(load_trained(run, "best", 1), config)
    assert (name, search) == ("dev", "greedy, one symbol per state")
    measured = []
    for limit in (1, 10):
        evaluate([f"run={run}", "sets=[dev]", f"decode.max_symbols={limit}"])
        measured.append(json.loads((run / "eval" / "dev" / "wer-greedy.json").read_text()))
    assert {key: measured[0][key] for key in figures} == figures
    assert {key: measured[1][key] for key in figures} != figures, "characters need several"


def test_manifests_of_the_working_directory_are_named_by_what_was_trained_on() -> None:
    for root, name in (("/corpora/english", "english"), (".", "cut/train.jsonl")):
        data = compose("train", ["data=manifests", f"data.root={root}", "data.train=cut/train.jsonl"]).data
        assert name_of_data(data) == f"ManifestCorpus, {name}"


def test_a_missing_package_is_named(random_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"^onnxruntime is not installed; install it: pip install -e '.\[export\]'$"):
        main([f"run={random_run('run')}"])


def test_a_run_in_fp64_is_checked_in_fp64_and_exported_in_fp32(random_run: Run) -> None:
    run = random_run("run", "trainer.precision=fp64")
    main([f"run={run}", "changed_texts=1", "history=16"])
    (encoder, *_) = session(run / "export" / "onnx", "encoder")(
        torch.randn(1, 20, parts_of(run).features.num_mels), torch.tensor([20])
    )
    assert encoder.dtype == torch.float32
    assert "texts of dev" in (run / "export" / "onnx" / "README.md").read_text()


@pytest.mark.parametrize("attach", [OnnxLstm, with_onnx_lstms])
def test_an_lstm_that_computes_otherwise_is_not_taken_for_a_plain_one(attach: Callable[..., object]) -> None:
    class Halved(Lstm):
        def forward(self, *given: Any) -> Any:
            outputs, states = super().forward(*given)
            return outputs / 2, states

    with pytest.raises(UsageError, match=r"^Halved has no export; export the run that the model was made from"):
        attach(Halved(3, 4, batch_first=True))


def test_gates_are_in_the_order_of_onnx() -> None:
    assert gates_of_onnx(torch.arange(8)[:, None]).flatten().tolist() == [0, 1, 6, 7, 2, 3, 4, 5]
