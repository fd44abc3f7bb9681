"""The arithmetic of a run, chosen explicitly and logged in one line.

fp32 matrix products on a CPU have two paths in torch: MKL, its default, which takes slow kernels on processors that
are not Intel's, and oneDNN, which torch enters only when told that bf16 precision would do. oneDNN then keeps full fp32
accuracy on processors without bf16 matrix units (AMX) and gives it up on those with them. So the choice follows the
processor and a measured error, never a race of timings: a resumed run must take the same path again.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from asr.training.processor import cpu_vendor, extensions, instruction_set
from distributed.errors import UsageError

Precision = Literal["fp32", "bf16", "fp64"]
MatmulPath = Literal["mkl", "onednn"]

MAX_RELATIVE_ERROR = 1e-5  # fp32 products are near 3e-7, bf16 ones near 3e-3: nothing lies between


@dataclass(frozen=True, slots=True)
class MatmulChoice:
    """The path of fp32 matrix products on the CPU and why it was taken."""

    path: MatmulPath
    reason: str
    relative_error: float  # error against fp64, in the Frobenius norm

    def __str__(self) -> str:
        return (
            f"instruction set {' '.join([instruction_set(), *extensions()])}; fp32 matrix products: {self.path} "
            f"({self.reason}; relative error {self.relative_error:.1e})"
        )


def choose_matmul(mode: Literal["auto", "mkl", "onednn"]) -> MatmulChoice:
    """Set the path of fp32 matrix products on the CPU for this process and return the choice with its reason.

    ``auto`` takes oneDNN on AMD processors, provided that it keeps fp32 accuracy here, and torch's default elsewhere.
    Only the CPU is touched: ``torch.set_float32_matmul_precision`` would switch GPUs to TF32 as well. The price is
    that ``torch.get_float32_matmul_precision`` (read by the inductor compiler) refuses to answer from then on.
    """
    if mode not in ("auto", "mkl", "onednn"):
        raise UsageError(f"launch.matmul must be auto, mkl or onednn, got {mode!r}")
    if mode == "mkl":
        return _take("mkl", "as configured")
    if not onednn_usable():
        if mode == "onednn":
            raise UsageError("launch.matmul=onednn, but torch has no such path on this processor: use auto or mkl")
        return _take("mkl", "torch's default: no oneDNN path on this processor")
    if mode == "onednn":
        return _take("onednn", "as configured")
    vendor = cpu_vendor()
    if vendor != "AuthenticAMD":
        return _take("mkl", f"torch's default, on {vendor}")
    choice = _take("onednn", "MKL is slow on AMD")
    if choice.relative_error <= MAX_RELATIVE_ERROR:
        return choice
    return _take("mkl", f"oneDNN loses precision here, relative error {choice.relative_error:.1e}")


def _take(path: MatmulPath, reason: str) -> MatmulChoice:
    if torch.backends.mkldnn.is_available():
        matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        matmul.fp32_precision = "bf16" if path == "onednn" else "ieee"
    return MatmulChoice(path, reason, matmul_error())


def onednn_usable() -> bool:
    """Whether torch would enter oneDNN when permitted: built with it, and the processor has what it asks for."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def matmul_error() -> float:
    """Relative error of an fp32 matrix product against fp64 on the path in force; the same on every call."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())


def flush_denormals() -> bool:
    """Treat numbers below about 1e-38 as 0 on this thread and those it starts later; False where not supported.

    Gates and gradients that die out would otherwise go through denormal numbers, which are tens of times slower. Call
    it first thing in a process: thread pools take the setting over when they start.
    """
    return torch.set_flush_denormal(True)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Wraps a forward pass: mixed precision for ``bf16``; no effect for ``fp32`` and ``fp64``, the model's dtypes."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
