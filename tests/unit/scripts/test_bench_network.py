"""The bench of emulated links: what it makes of records, and its refusals in one line. Links themselves need root."""

import os
import shutil

import pytest

from distributed.errors import UsageError
from scripts.bench.namespaces import Host, check_privileges
from scripts.bench.network import figures, step_ratios, summarise, table


def record(rank: int) -> dict:
    """What a learner writes: a step takes 0.2 s alone, 0.4 s under dpsgd, for 40 MB at 125 MB/s; the last turn is slow."""
    return {
        "message_bytes": 40e6,
        "1gbit": {
            "batch": 150,
            "goodput_bytes_per_second": [125e6, 125e6],
            "step_seconds": {
                "compute": [0.2, 0.2, 0.4],
                "adpsgd": [0.21, 0.21, 0.42],
                "dpsgd": [0.4, 0.4 - 0.01 * rank, 0.8],
            },
            "exchange_seconds": {"adpsgd": [0.4], "dpsgd": [0.4]},
            "payload_bytes": {"compute": [0.0], "adpsgd": [24e6], "dpsgd": [40e6]},
            "rounds_per_step": {"compute": [0.0], "adpsgd": [0.6], "dpsgd": [1.0]},
            "counted_bytes": {"compute": [0], "adpsgd": [240e6], "dpsgd": [120e6]},
            "interface_bytes": {"compute": [1000], "adpsgd": [241e6], "dpsgd": [121e6]},
        },
    }


def test_figures_have_the_keys_of_the_contract():
    rows = summarise("1gbit", [record(0), record(1)])
    found = figures(rows)
    assert found["step_ratio/dpsgd/1gbit"] == pytest.approx(2.0)
    assert found["step_over_bound/dpsgd/1gbit"] == pytest.approx(0.4 / 0.32)  # 40 MB / 125 MB/s, above compute
    assert found["wire_efficiency/dpsgd/1gbit"] == pytest.approx(0.8)
    assert found["rounds_per_step/dpsgd/1gbit"] == 1.0
    assert found["payload_bytes/dpsgd"] == 40e6
    assert found["counted_over_interface/dpsgd/1gbit"] == pytest.approx(120 / 121)
    assert found["compute_seconds/1gbit"] == pytest.approx(0.2)
    assert table(rows).splitlines()[-1] == "| 1gbit | dpsgd | 400 | 2.00 | 1.25 | 0.80 | 1.00 | - | 40.0 |"


def test_steps_are_compared_with_computation_in_the_same_turn():
    """In the last turn everything took twice as long."""
    assert step_ratios("adpsgd", [record(0)["1gbit"]]) == pytest.approx([1.05, 1.05, 1.05])


def test_rounds_are_reported_relative_to_the_links_capacity():
    found = figures(summarise("1gbit", [record(0), record(1)]))
    assert found["step_ratio/adpsgd/1gbit"] == pytest.approx(1.05)
    room = 0.2 / 0.32  # of an exchange in the time of a step's computation
    assert found["rounds_over_target/adpsgd/1gbit"] == pytest.approx(0.6 / (0.8 * room))
    assert "rounds_over_target/dpsgd/1gbit" not in found


@pytest.mark.parametrize(
    ("user", "tools", "expected"),
    [(1000, True, "need root.* sudo"), (0, False, "need ip and tc; install iproute2")],
)
def test_refusals_name_the_remedy(monkeypatch: pytest.MonkeyPatch, user: int, tools: bool, expected: str):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(shutil, "which", lambda tool: f"/sbin/{tool}" if tools else None)
    with pytest.raises(UsageError, match=expected) as caught:
        check_privileges()
    assert "\n" not in str(caught.value)


def test_a_command_runs_inside_the_host_s_namespace():
    host = Host("somewhere", "eth9", "10.0.0.1")
    assert host.command(["true"]) == ["ip", "netns", "exec", "somewhere", "true"]
