"""The fp32 path on the CPU follows processor and accuracy; autocast and denormals do what they say."""

from collections.abc import Iterator

import pytest
import torch

from asr.training import precision
from asr.training.precision import (
    MAX_RELATIVE_ERROR,
    autocast,
    choose_matmul,
    flush_denormals,
    matmul_error,
)
from asr.training.processor import cpu_vendor

MATMUL = torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = MATMUL.fp32_precision
    yield
    MATMUL.fp32_precision = before


def pretend(monkeypatch: pytest.MonkeyPatch, vendor: str, error: float) -> None:
    """A processor of this vendor on which only oneDNN's bf16 permission costs accuracy."""
    monkeypatch.setattr(precision, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(precision, "onednn_usable", lambda: True)
    monkeypatch.setattr(precision, "matmul_error", lambda: error if MATMUL.fp32_precision == "bf16" else 3e-7)


@pytest.mark.parametrize(
    ("vendor", "error", "path", "reason"),
    [
        ("AuthenticAMD", 4e-7, "onednn", "MKL is slow on AMD"),
        ("AuthenticAMD", 3e-3, "mkl", "oneDNN loses precision here, relative error 3.0e-03"),
        ("GenuineIntel", 4e-7, "mkl", "torch's default, on GenuineIntel"),
    ],
)
def test_auto_follows_vendor_and_accuracy(
    monkeypatch: pytest.MonkeyPatch, vendor: str, error: float, path: str, reason: str
) -> None:
    pretend(monkeypatch, vendor, error)
    choice = choose_matmul("auto")
    assert (choice.path, choice.reason) == (path, reason)
    assert choice.relative_error <= MAX_RELATIVE_ERROR
    assert MATMUL.fp32_precision == {"onednn": "bf16", "mkl": "ieee"}[path]
    assert "\n" not in str(choice)
    assert path in str(choice)


def test_a_wish_is_obeyed_whatever_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "GenuineIntel", 3e-3)
    forced = choose_matmul("onednn")
    assert (forced.path, forced.relative_error) == ("onednn", 3e-3)
    assert choose_matmul("mkl").path == "mkl"


def test_the_choice_is_the_same_on_one_machine_and_keeps_fp32_accuracy() -> None:
    first = choose_matmul("auto")
    assert first.relative_error <= MAX_RELATIVE_ERROR
    assert choose_matmul("auto") == first


def test_the_measured_error_tells_bf16_from_fp32() -> None:
    choose_matmul("mkl")
    assert 1e-8 < matmul_error() < 1e-6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert matmul_error() > 100 * MAX_RELATIVE_ERROR


def test_gpus_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "AuthenticAMD", 4e-7)
    before = torch.backends.cuda.matmul.fp32_precision
    assert choose_matmul("onednn").path == "onednn"
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_an_unknown_wish_is_refused() -> None:
    with pytest.raises(ValueError, match=r"launch\.matmul must be auto, mkl or onednn, got 'fast'"):
        choose_matmul("fast")


def test_without_onednn_the_default_stays_and_a_wish_for_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "onednn_usable", lambda: False)
    assert choose_matmul("auto").path == "mkl"
    with pytest.raises(ValueError, match="no such path on this processor"):
        choose_matmul("onednn")


def test_vendor_is_one_word() -> None:
    assert cpu_vendor()
    assert "\n" not in cpu_vendor()


def test_denormals_become_zero() -> None:
    tiny = torch.full((64,), 2e-38)
    try:
        if not flush_denormals():
            pytest.skip("this processor cannot flush denormals")
        assert torch.equal(tiny * 0.25, torch.zeros(64))
    finally:
        torch.set_flush_denormal(False)
    assert (tiny * 0.25 > 0).all()


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("bf16", torch.float32, torch.bfloat16),
        ("fp32", torch.float32, torch.float32),
        ("fp64", torch.float64, torch.float64),
    ],
)
def test_products_under_autocast(name: precision.Precision, given: torch.dtype, expected: torch.dtype) -> None:
    x = torch.ones(2, 2, dtype=given)
    with autocast(name, torch.device("cpu")):
        assert (x @ x).dtype == expected
    assert (x @ x).dtype == given
