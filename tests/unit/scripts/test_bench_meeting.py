"""The bench of meeting learners: real ones, and the extrapolation."""

import json
from pathlib import Path

import pytest

from scripts.bench import meeting


def test_the_extrapolation_is_of_sockets_in_a_line_and_else_a_power() -> None:
    rows = [{"learners": size} | dict.fromkeys(meeting.FIGURES, 3.0 * size**2) for size in (2, 4, 16)]
    for row in rows:
        row |= dict.fromkeys(meeting.SOCKETS, row["learners"] + 1.0)
    found = meeting.estimated(rows)
    assert found["packets"] == pytest.approx(3.0 * 1000**2)
    assert found["sockets_gossip"] == pytest.approx(1001)


def test_learners_are_connected_with_each_other_by_the_group_of_all_and_by_that_of_the_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(meeting, "QUICK_SIZES", (3,))
    monkeypatch.setattr(meeting, "estimated", lambda rows: {key: rows[0][key] for key in meeting.FIGURES})
    meeting.main(["--quick", "--topologies", "random_ring", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())["figures"]
    # Two others in each group; beside them signs of life and the rendezvous' store, which the launcher has one more of.
    assert 2 + 2 <= found["sockets_joined/random_ring/3"] <= 2 + 4
    assert found["sockets_gossip/random_ring/3"] == found["sockets_joined/random_ring/3"] + 2
    assert found["join_seconds/random_ring/3"] > 0
    assert "| random_ring | 1,000, estimated |" in capsys.readouterr().out
