"""The picture of training methods by budget: what is drawn of which record, and records that do not fit together."""

import json
from pathlib import Path
from typing import Any

import pytest

from distributed.errors import UsageError
from scripts.bench import methods_figure


def record(epochs: int | None, **rates: list[float]) -> dict[str, Any]:
    """A record as methods.py writes it, of one search."""
    rows = [
        {"search": "greedy", "variant": variant, "wer_by_seed": dict(enumerate(found, start=1))}
        for variant, found in rates.items()
    ]
    return {"command": f"of {epochs}", "rows": rows} | ({} if epochs is None else {"epochs": epochs})


def test_a_method_has_the_rates_of_its_seeds_at_every_budget_it_was_measured_at() -> None:
    short, long = record(12, baseline=[0.5, 0.6], switchout=[0.4, 0.5]), record(24, baseline=[0.3, 0.2])
    assert methods_figure.curves([short, long], "greedy") == {
        "baseline": {12: [0.5, 0.6], 24: [0.3, 0.2]},
        "switchout": {12: [0.4, 0.5]},
    }


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(None, baseline=[0.1])], "does not say its epochs"),
        ([record(12, baseline=[0.1]), record(12, baseline=[0.2])], "has the 12 epochs of another one"),
        ([record(12, switchout=[0.1])], "has no baseline under greedy search"),
    ],
)
def test_records_that_do_not_fit_together_are_refused(records: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        methods_figure.curves(records, "greedy")


def test_any_search_of_the_records_is_drawn_and_another_one_names_them() -> None:
    both = record(12, baseline=[0.5], switchout=[0.4])
    both["rows"] += [row | {"search": "beam and density ratio"} for row in record(12, baseline=[0.3])["rows"]]
    assert methods_figure.curves([both], "beam and density ratio") == {"baseline": {12: [0.3]}}
    with pytest.raises(UsageError, match="--search 'beam': the record of 'of 12' has greedy, beam and density ratio"):
        methods_figure.curves([both], "beam")


def test_a_record_of_the_baseline_alone_has_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no method beside the baseline"):
        methods_figure.draw(tmp_path / "a.svg", {"baseline": {12: [0.1]}}, "greedy")


def test_the_picture_names_every_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["baseline", "switchout", "replicas", "dropconnect", "combined", "sequence_noise"]
    (tmp_path / "a.json").write_text(json.dumps(record(12, **{name: [0.1, 0.2] for name in names})))
    methods_figure.main([str(tmp_path / "a.json"), "--figure", str(tmp_path / "all.svg")])
    drawn = (tmp_path / "all.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in names[1:])
    assert "5 methods" in capsys.readouterr().out
