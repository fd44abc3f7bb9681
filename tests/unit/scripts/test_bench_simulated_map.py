"""The map of word error rates by batch and rate: every cell's settings, the table, the picture, what is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.bench import simulated_map
from scripts.bench.simulated_map import cells, main


def test_every_scheme_has_every_rate_at_every_batch_and_gossip_both_numbers_of_learners() -> None:
    found = list(cells((64, 256)))
    assert len({(cell.row, cell.batch, cell.lr) for cell in found}) == len(found) == 2 * 4 * (2 + 2 * 2)
    for cell in found:
        settings = dict(each.split("=") for each in cell.settings)
        assert int(settings["batch.units"]) == cell.learners
        assert cell.learners * int(settings["batch.unit_utterances"]) == cell.batch
        assert float(settings["optimizer.lr"]) == cell.lr


def test_the_map_is_drawn_and_goes_on_from_what_is_kept(
    small_overrides: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(simulated_map, "LEARNERS", (2,))
    for name, (settings, rates, by_learners) in simulated_map.SCHEMES.items():
        monkeypatch.setitem(simulated_map.SCHEMES, name, (settings, rates[:2], by_learners))
    shared = [part for each in (*small_overrides(), "hooks=[]") for part in ("--override", each)]
    files = [
        "--json",
        str(tmp_path / "map.json"),
        "--figure",
        str(tmp_path / "map.svg"),
        "--kept",
        str(tmp_path / "kept"),
    ]
    line = ["--quick", "--batches", "4", "--set", "dev", *shared, *files]
    main(line)
    found = json.loads((tmp_path / "map.json").read_text())
    assert found["simulated"] is True
    assert set(found["figures"]) >= {"wer/SSGD/4/0.03", "wer/DPSGD, ring, 2 learners/4/0.06"}
    assert len(found["figures"]) == 8
    picture = (tmp_path / "map.svg").read_text()
    assert picture.count("<image") >= 1  # the cells
    monkeypatch.setattr(simulated_map, "trained", lambda *_: pytest.fail("trained again"))
    main(line)
    assert json.loads((tmp_path / "map.json").read_text())["figures"] == found["figures"]
    assert capsys.readouterr().out.count("| 4 | SSGD with LAMB | 0.003, 0.006 |") == 2
