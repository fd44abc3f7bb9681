"""Packed models: codes survive bytes and files, engines agree on every code, and a damaged folder is refused."""

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.models.speech_model import SpeechModel
from asr.runs.files import sha256
from asr.runs.model_folder import LoadedModel, load_model, save_model
from asr.runs.run_folder import RunFolder
from compression.quantization.codes import FLOAT, INTEGER
from compression.quantization.onnx_engine import ONNX
from compression.quantization.pack import Pack, Packed
from compression.quantization.packed import PackedLayer, PackedLstm, PackedMatrix
from compression.quantization.twins import Twin
from compression.quantization.weights import levels
from distributed.errors import UsageError
from scripts.compress import main as compress
from scripts.evaluate import main as evaluate
from scripts.transcribe import main as transcribe
from tests.unit.compression.conftest import SMALL

Make = Callable[..., Any]
FRAMES, TOKENS = [40, 27, 33], [4, 2, 3]
PATTERNS: list[list[dict[str, Any]]] = [
    [{"modules": "*"}],
    [{"modules": "*", "bits": 8, "weights": "max", "inputs": "max"}],
    [{"modules": "*", "bits": 2, "hidden": "pact_plus_symmetric", "inputs": "pact_symmetric"}],
]


def packed_of(model: SpeechModel) -> SpeechModel:
    return Packed(encoding="codes")(model).eval()


def layers_of(model: nn.Module) -> dict[str, PackedLayer]:
    return {name: each for name, each in model.named_modules() if isinstance(each, PackedLayer)}


@contextmanager
def outputs_of(model: SpeechModel) -> Iterator[list[tuple[str, Tensor]]]:
    """Collects what every packed layer gives out."""
    seen: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.append((name, output[0] if isinstance(output, tuple) else output))

    handles = [each.register_forward_hook(keep(name)) for name, each in layers_of(model).items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def ragged(seed: int, make_batch: Make) -> Batch:
    generator = np.random.default_rng(seed)
    batch = make_batch(generator.integers(9, 60, 4).tolist(), generator.integers(1, 5, 4).tolist())
    return replace(batch, features=torch.from_numpy(generator.standard_normal(batch.features.shape)).float())


@pytest.mark.parametrize("scheme", PATTERNS, ids=["4", "8", "2"])
@pytest.mark.parametrize("kind", SMALL)
def test_sums_in_int32_give_the_same_values_in_every_layer_bitwise(
    kind: str, scheme: list[dict[str, Any]], small_model: Make, quantized: Make, make_batch: Make
) -> None:
    model = packed_of(quantized(small_model(kind), scheme))
    for seed in range(5):
        batch, seen = ragged(seed, make_batch), []
        for engine in (FLOAT, INTEGER):
            for layer in layers_of(model).values():
                layer.compute_with(engine)
            with torch.inference_mode(), outputs_of(model) as outputs:
                loss = model(batch).total
            seen.append([*outputs, ("loss", loss)])
        assert len(seen[0]) > 1
        for (name, value), (_, reference) in zip(*seen, strict=True):
            assert torch.equal(value, reference), name


@pytest.mark.parametrize("kind", SMALL)
def test_onnx_runtime_gives_the_same_values_bitwise(
    kind: str, small_model: Make, quantized: Make, make_batch: Make
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = packed_of(quantized(small_model(kind), [{"modules": "*", "bits": 4}]))
    for seed in range(3):
        batch, seen = ragged(seed, make_batch), []
        for engine in (ONNX, None, INTEGER):
            for layer in layers_of(model).values():
                layer.compute_with(engine)
            with torch.inference_mode(), outputs_of(model) as outputs:
                model.encode(batch.features, batch.feature_lengths) if hasattr(model, "encode") else model(batch)
            seen.append(list(outputs))
        for (name, value), (_, chosen), (_, reference) in zip(*seen, strict=True):
            assert torch.equal(value, reference), name
            assert torch.equal(chosen, reference), name


def numpy_lstm(layer: PackedLstm, x_TK: np.ndarray) -> np.ndarray:
    """Codes (T, H) of one utterance by the equations, in NumPy with int32 sums; torch's sigmoid and tanh."""
    ih, hh = (layer.matrix(f"weight_{each}_l0") for each in ("ih", "hh"))
    largest, size = levels(layer.hidden_bits), layer.hidden_size
    grid, hidden_step = layer.input_quantizer, np.float32(1 / largest)
    codes = grid.codes(torch.from_numpy(x_TK)).numpy().astype(np.int32)
    sums = codes @ ih.unpacked().numpy().astype(np.int32).T
    gates = sums.astype(np.float32) * (grid.step().numpy() * ih.row_steps().numpy()) + layer.bias_l0.detach().numpy()
    code, cell, made = np.zeros(size, np.int32), np.zeros(size, np.float32), []
    recurrent = hh.unpacked().numpy().astype(np.int32)
    for each in gates:
        total = each + (recurrent @ code).astype(np.float32) * (hidden_step * hh.row_steps().numpy())
        entry, forget, new, exit_ = torch.from_numpy(total)[None].chunk(4, dim=1)
        cell_1H = forget.sigmoid() * torch.from_numpy(cell)[None] + entry.sigmoid() * new.tanh()
        squashed = (exit_.sigmoid() * cell_1H.tanh()).numpy()[0] / hidden_step
        cell, code = cell_1H.numpy()[0], np.rint(squashed).astype(np.int32)
        made.append(code)
    return np.stack(made)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_an_lstm_has_the_codes_of_its_equations_bitwise(bits: int, small_model: Make, quantized: Make) -> None:
    model = packed_of(quantized(small_model("lstm"), [{"modules": "*", "bits": bits, "weights": "sawb"}]))
    layer = model.encoder.layers[1].left_to_right
    layer.bias_l0.data.normal_()
    for _ in range(20):
        x_TK = (torch.randint(-levels(bits), levels(bits) + 1, (30, 16)) / levels(bits)).numpy()
        with torch.inference_mode():
            values = layer(torch.from_numpy(x_TK)[None])[0][0]
        assert np.array_equal((values * levels(bits)).round().numpy().astype(np.int32), numpy_lstm(layer, x_TK))


@pytest.mark.parametrize("scheme", PATTERNS, ids=["4", "8", "2"])
@pytest.mark.parametrize("kind", SMALL)
def test_a_packed_model_computes_what_it_was_packed_from(
    kind: str, scheme: list[dict[str, Any]], small_model: Make, quantized: Make, make_batch: Make
) -> None:
    """Up to sums of other rounding, which turn few codes to their neighbours."""
    twin, packed = (quantized(small_model(kind), scheme) for _ in range(2))
    packed_of(packed)
    assert not any(isinstance(each, Twin) for each in packed.modules())
    states = []
    for model in (twin, packed):
        with torch.inference_mode():
            batch = make_batch(FRAMES, TOKENS)
            states.append(model(batch).total)
    torch.testing.assert_close(states[1], states[0], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["lstm", "conformer"])
def test_a_copy_computes_the_same(kind: str, small_model: Make, quantized: Make, make_batch: Make) -> None:
    model, batch = packed_of(quantized(small_model(kind))), make_batch(FRAMES, TOKENS)
    with torch.inference_mode():
        before = model(batch).total
        assert torch.equal(copy.deepcopy(model)(batch).total, before)
        assert torch.equal(model.to(torch.device("cpu"))(batch).total, before)


def test_no_weight_is_there_in_full_precision(small_model: Make, quantized: Make) -> None:
    twin = quantized(small_model("lstm"))
    quantised = sum(
        each.numel() for module in twin.modules() if isinstance(module, Twin) for each in module.codes().values()
    )
    before = sum(each.numel() for each in twin.state_dict().values())
    packed = packed_of(twin)
    held = [each for module in packed.modules() for each in vars(module).values() if isinstance(each, Tensor)]
    held += [*packed.parameters(), *packed.buffers()]
    wide = sum(each.numel() for each in held if each.is_floating_point())
    steps = sum(len(each.steps) for each in packed.modules() if isinstance(each, PackedMatrix))
    grids = sum(name.endswith("step_1") for name in packed.state_dict())
    merged = sum(each.bias_l0.numel() for each in packed.modules() if isinstance(each, PackedLstm))
    assert wide == before - quantised - merged + steps + grids
    assert packed.encoder.layers[0].left_to_right._flat_weights == []


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of ``packed_folder`` is kept, once it was made."""
    return tmp_path_factory.mktemp("packed") / "run"


@pytest.fixture
def packed_folder(random_run: Callable[..., Path], kept: Path, tmp_path: Path) -> Path:
    """A packed model folder of 4 bits, exported from a run; each test has a copy."""
    run = tmp_path / "run"
    if kept.exists():
        shutil.copytree(kept, run)
    else:
        random_run("run")
        compress([f"run={run}", "pass=int4"])
        compress([f"run={run}", "pass=pack", f"weights={run / 'export' / 'int4'}"])
        shutil.copytree(run, kept)
    return run / "export" / "pack"


def test_a_folder_of_codes_gives_back_codes_and_texts(
    packed_folder: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, unpacked = packed_folder.parent.parent, packed_folder.with_name("int4")
    loaded, before = load_model(packed_folder), load_model(unpacked).model
    for name, layer in layers_of(loaded.model).items():
        twin = before.get_submodule(name)
        assert isinstance(twin, Twin)
        for each, codes in twin.codes().items():
            matrix = layer.matrix(each)
            assert torch.equal(matrix.unpacked(), codes.flatten(1)), name
            assert torch.equal(matrix.steps, twin.steps()[each]), name
    save_model(loaded, tmp_path / "again")
    assert sha256(tmp_path / "again" / "model.safetensors") == sha256(packed_folder / "model.safetensors")
    texts = []
    for folder in (unpacked, packed_folder):
        capsys.readouterr()
        transcribe([f"run={run}", f"weights={folder}", *(str(tiny_corpus / f"dev-{each}.wav") for each in range(2))])
        evaluate([f"run={run}", f"weights={folder}", "sets=[dev]"])
        decoded = RunFolder(folder).evaluation("dev", "greedy").transcripts.read_text()
        texts.append((capsys.readouterr().out.splitlines()[:2], decoded))
    assert texts[0] == texts[1]
    assert len(set(texts[0][1].split())) > 10, "texts of some length"


def rewritten(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Other weights under a SHA-256 that is theirs, as a folder from elsewhere may have."""
    path, old = folder / "model.safetensors", sha256(folder / "model.safetensors")
    save_file(tensors, path)
    description = folder / "model.yaml"
    description.write_text(description.read_text().replace(old, sha256(path)))


CODES, STEPS = "encoder.layers.0.left_to_right.packed.weight_hh_l0.codes", "joiner.output.packed.weight.steps"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.update({CODES: tensors[CODES].float()}), r"not 4-bit codes of \d+ columns, packed"),
        (lambda tensors: tensors[CODES].fill_(0x88), r"not 4-bit codes of \d+ columns, packed; restore the folder$"),
        (lambda tensors: tensors.update({CODES: tensors[CODES][:-1].clone()}), r"its weights do not fit model\.yaml: "),
        (lambda tensors: tensors.pop(CODES), r"weight_hh_l0\.codes is missing among the weights"),
        (lambda tensors: tensors[STEPS].fill_(float("nan")), r"steps: a step is not a positive number"),
        (lambda tensors: tensors[STEPS].zero_(), r"steps: a step is not a positive number"),
    ],
)
def test_wrong_codes_are_refused_in_one_line(
    damage: Callable[[dict[str, Tensor]], Any], message: str, packed_folder: Path
) -> None:
    tensors = load_file(packed_folder / "model.safetensors")
    damage(tensors)
    rewritten(packed_folder, tensors)
    with pytest.raises(UsageError, match=message) as caught:
        load_model(packed_folder)
    assert "\n" not in str(caught.value)


def test_a_truncated_or_altered_file_is_refused(packed_folder: Path) -> None:
    path = packed_folder / "model.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"missing, truncated or altered \(SHA-256 differs\); restore the folder$"):
            load_model(packed_folder)


def test_what_cannot_be_packed_is_refused(small_model: Make, quantized: Make, make_batch: Make) -> None:
    with pytest.raises(UsageError, match=r"^the model is not quantised; run pass=int4"):
        packed_of(small_model("lstm"))
    by_token = [{"modules": "predictor.embedding", "groups": "row"}, {"modules": "*"}]
    with pytest.raises(
        UsageError, match=r"^predictor\.lstm reads predictor\.embedding, which has a step for each token"
    ):
        packed_of(quantized(small_model("lstm"), by_token))
    packed = packed_of(quantized(small_model("lstm")))
    with pytest.raises(UsageError, match=r"^the model is packed already"):
        packed_of(packed)
    with pytest.raises(UsageError, match=r"^a packed model does not train"):
        packed.train()(make_batch(FRAMES, TOKENS))


def test_the_pass_writes_down_its_transform(small_model: Make, quantized: Make, packed_folder: Path) -> None:
    source = load_model(packed_folder.with_name("int4"))
    made: LoadedModel = Pack()(source, lambda split: [])
    assert made.description.transforms[-1] == {"_target_": "compression.quantization.pack.Packed", "encoding": "codes"}
    with pytest.raises(UsageError, match=r"^the model is quantised already"):
        compress([f"run={packed_folder.parent.parent}", "pass=int8", f"weights={packed_folder}"])
    assert load_model(packed_folder).description.transforms == made.description.transforms
