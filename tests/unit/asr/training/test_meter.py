"""Meters: what is taken is seen, what was given back is not, and limits of control groups are found."""

import sys
from pathlib import Path

import pytest
import torch

from asr.training import meter
from asr.training.meter import CudaMeter, Meter, ResidentMeter, cgroup_limits, meter_of

MIB = 2**20


def check_meter(device: torch.device, tested: Meter, tolerance_bytes: int) -> None:
    tested.reset()
    before = tested.held()
    assert abs(tested.peak() - before) <= tolerance_bytes
    kept = torch.ones(32 * MIB, dtype=torch.uint8, device=device)
    torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    assert abs(tested.peak() - before - 96 * MIB) <= tolerance_bytes, "with what is free again"
    tested.reset()
    assert abs(tested.held() - before - len(kept)) <= tolerance_bytes, "without what is free again"
    assert abs(tested.peak() - before - len(kept)) <= tolerance_bytes, "a reset begins anew"
    assert 0 < tested.held() < tested.capacity()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_resident_memory_and_its_peak_are_seen() -> None:
    check_meter(torch.device("cpu"), meter_of(torch.device("cpu"), 1), 8 * MIB)


@pytest.mark.gpu
def test_cuda_memory_and_its_peak_are_seen() -> None:
    device = torch.device("cuda", 0)
    tested = meter_of(device, 1)
    assert isinstance(tested, CudaMeter)
    check_meter(device, tested, 2 * MIB)


def test_learners_on_a_host_share_its_memory() -> None:
    assert ResidentMeter(4).capacity() == pytest.approx(ResidentMeter(1).capacity() / 4, abs=1)


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/job/step\n", {"job/memory.max": "5000\n", "job/step/memory.max": "max\n"}, [5000]),
        (
            "4:cpu:/\n3:memory:/job\n0::/\n",
            {"memory/job/memory.limit_in_bytes": "7000\n", "memory/memory.limit_in_bytes": "9000\n"},
            [7000, 9000],
        ),
        ("0::/gone\n", {}, []),
    ],
)
def test_limits_of_control_groups_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, files: dict[str, str], expected: list[int]
) -> None:
    (tmp_path / "cgroup").write_text(lines)
    monkeypatch.setattr(meter, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(meter, "CGROUP_ROOT", tmp_path / "fs")
    for name, content in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert list(cgroup_limits()) == expected
    if expected:
        assert ResidentMeter(2).capacity() == int(0.9 * min(expected) / 2)
