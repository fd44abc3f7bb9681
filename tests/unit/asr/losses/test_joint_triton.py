"""Triton's kernels in its interpreter, which is asked for before Triton is imported: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asr.losses.cells import CellIndex, Cells
from asr.losses.inputs import Combine, LossInputs
from asr.losses.joint import Gradients, Kept, TiledJoiner
from asr.losses.squashing import TANH

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_the_interpreter = pytest.mark.skipif(
    not INTERPRETED, reason="run by test_the_kernels_equal_pytorch_in_the_interpreter in a process of its own"
)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.skipif(INTERPRETED, reason="starts the interpreter")
def test_the_kernels_equal_pytorch_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-k", "interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


def make_inputs(combine: Combine, dtype: torch.dtype, device: str = "cpu", classes: int = 37) -> LossInputs:
    rng = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(3, 7, 40, generator=rng),
        torch.randn(3, 5, 40, generator=rng),
        torch.randn(classes, 40, generator=rng) / 3,
        torch.randn(classes, generator=rng),
    ]
    encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = (tensor.to(device, dtype) for tensor in tensors)
    return LossInputs(
        encoder_BTJ=encoder_BTJ,
        predictor_BSJ=predictor_BSJ,
        weight_VJ=weight_VJ,
        bias_V=bias_V,
        targets_BU=torch.randint(1, classes, (3, 4), generator=rng).to(device),
        encoder_lengths_B=torch.tensor([7, 2, 5]),
        target_lengths_B=torch.tensor([2, 4, 0]),
        combine=combine,
        blank=0,
    )


def results(kind: type[TiledJoiner], inputs: LossInputs, tile_cells: int) -> list[Tensor]:
    """Scores of all cells, and gradients from some of them with posteriors made up."""
    shape = inputs.shape()
    joiner = kind(
        inputs.tensors,
        CellIndex.build(inputs, shape),
        combine=inputs.combine,
        squashing=inputs.squashing,
        blank=inputs.blank,
        tile_cells=tile_cells,
        dtype=inputs.encoder_BTJ.dtype,
    )
    cells = sum(shape.cells)
    scores = joiner.score(torch.arange(cells, device=inputs.encoder_BTJ.device), cells)
    kept_K = torch.arange(0, cells, 2, device=inputs.encoder_BTJ.device)
    posteriors = torch.rand(2, len(kept_K), generator=torch.Generator().manual_seed(1)).to(scores.blank_N)
    total = Gradients.zeros(inputs.tensors, scores.blank_N.dtype)
    joiner.add_gradients(Kept(kept_K, *posteriors, scores.normaliser_N[kept_K]), total)
    gradients = [total.encoder_RJ, total.predictor_QJ, total.weight_VJ, total.bias_V]
    return [scores.blank_N, scores.label_N, scores.normaliser_N, *gradients]


def compare(inputs: LossInputs, tile_cells: int, tolerance: float) -> None:
    from asr.losses.joint_triton import TritonJoiner

    expected = results(TiledJoiner, inputs, tile_cells)
    for value, reference in zip(results(TritonJoiner, inputs, tile_cells), expected, strict=True):
        assert ((value - reference).norm() / reference.norm()).item() < tolerance


@in_the_interpreter
@pytest.mark.parametrize("combine", ["add", "multiply"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 3e-3)])
def test_interpreted_kernels_agree_with_pytorch(combine: Combine, dtype: torch.dtype, tolerance: float) -> None:
    compare(make_inputs(combine, dtype), tile_cells=20, tolerance=tolerance)


@in_the_interpreter
def test_interpreted_kernels_address_rows_beyond_32_bits(tmp_path: Path) -> None:
    """In files with holes: only what is touched takes room."""
    from asr.losses.joint_triton import TritonJoiner

    def far(name: str, rows: int, columns: int) -> Tensor:
        with (tmp_path / name).open("wb") as file:
            file.truncate(4 * rows * columns)
        return torch.from_file(str(tmp_path / name), shared=True, size=rows * columns).view(rows, columns)

    inputs, joint = make_inputs("add", torch.float32), 40
    joiner = TritonJoiner(
        inputs.tensors,
        CellIndex.build(inputs, inputs.shape()),
        combine="add",
        squashing=TANH,
        blank=0,
        tile_cells=20,
        dtype=torch.float32,
    )
    near = joiner.index.locate(torch.arange(6))
    hidden_nJ = joiner._hidden(near)[0].clone()
    kept = Kept(torch.arange(6), *torch.rand(3, 6))
    gradient_nV = joiner._logits_gradient(hidden_nJ, near, kept).clone()

    first = 2**31 // joint + 3
    encoder_RJ = far("encoder", first + 21, joint)
    encoder_RJ[first:] = joiner.encoder_RJ
    joiner.encoder_RJ = encoder_RJ
    beyond = Cells(near.encoder_n + first, near.predictor_n, near.label_n)
    assert int(beyond.encoder_n.min()) * joint > 2**31
    torch.testing.assert_close(joiner._hidden(beyond)[0], hidden_nJ, rtol=0, atol=0)

    joiner.space.held["gradient"] = far("gradient", 6, 2**29)[:, : gradient_nV.shape[1]]
    assert 5 * joiner.space.held["gradient"].stride(0) > 2**31
    torch.testing.assert_close(joiner._logits_gradient(hidden_nJ, near, kept), gradient_nV, rtol=0, atol=0)


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("combine", ["add", "multiply"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("classes", [29, 500, 5000])
def test_a_gpu_agrees_with_pytorch(combine: Combine, dtype: torch.dtype, tolerance: float, classes: int) -> None:
    compare(make_inputs(combine, dtype, "cuda", classes), tile_cells=1024, tolerance=tolerance)
