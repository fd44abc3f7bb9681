"""The section on compression: what it warns of, and its charts."""

from dataclasses import replace

import pytest

from asr.reporting.report import report
from asr.reporting.run import RunRecord, read_run


def compressed(record: RunRecord, paid: float, stability: float) -> RunRecord:
    """The run as if it had logged these at its end, and half of them in the middle."""
    rows = list(record.rows[0])
    for place, part in ((len(rows) // 2, 0.5), (len(rows) - 1, 1.0)):
        rows[place] = rows[place] | {"comm/payments": part * paid, "comm/stability": part * stability}
    return replace(record, rows=record.rows | {0: tuple(rows)})


@pytest.mark.parametrize(
    ("paid", "stability", "warnings"),
    [(20.0, 0.4, set()), (0.9, 0.4, {"paid"}), (20.0, 3.0, {"debts"}), (0.9, 3.0, {"paid", "debts"})],
)
def test_the_page_says_which_law_a_run_does_not_keep(
    make_run, paid: float, stability: float, warnings: set[str]
) -> None:
    page = report(compressed(read_run(make_run("short")), paid, stability))
    assert ("what was not sent was paid" in page) is ("paid" in warnings)
    assert ("times the highest at which debts shrink" in page) is ("debts" in warnings)
    assert "Payments of what is not sent" in page
    assert "Stability of debts" in page


def test_a_run_without_compression_has_no_such_section(make_run) -> None:
    assert "<h2>Compression" not in report(read_run(make_run("dense")))
