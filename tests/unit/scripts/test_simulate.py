"""scripts/simulate.py: a table of all backends, one with its settings, a page."""

from pathlib import Path

import pytest

from asr.reporting.cluster import Backend, cluster_page
from distributed.errors import UsageError
from scripts.simulate import main
from tests.schemes import SCHEMES

SMALL = ["learners=4", "learners_per_node=2", "parameters=2000000", "steps=3"]


def test_every_backend_has_a_row_and_the_page_shows_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    main([*SMALL, f"out={out}"])
    lines = capsys.readouterr().out.splitlines()
    words = [line.split(" | ")[0] for line in lines[1:-2]]
    assert set(words) == set(SCHEMES) - {"single"}
    page = out.read_text()
    assert all(f">{word}<" in page for word in words)
    assert page.count("<svg") >= 2


def test_one_backend_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    sent = {}
    for topology in ("ring", "random_pairwise"):
        main([*SMALL, "backend=dpsgd", f"backend.topology={topology}"])
        (row,) = capsys.readouterr().out.splitlines()[1:-1]
        sent[topology] = row.split(" | ")[4]
    assert sent == {"ring": "16\u202fMB", "random_pairwise": "8\u202fMB"}


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(UsageError, match="do not fill nodes of 8"):
        main(["learners=12", "learners_per_node=8"])
    with pytest.raises(UsageError, match="learners=0: must be"):
        main(["learners=0"])


def test_a_page_cannot_be_broken_by_what_it_shows() -> None:
    page = cluster_page([Backend("<b>&", 1.0, 0.5, 0.25, 3600.0, 1e6, 0.0, 0)], {"<b>&": {2: 1.5}}, "<script>")
    assert "<b>&" not in page
    assert "&lt;script&gt;" in page
