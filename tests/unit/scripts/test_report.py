"""Where the page about runs goes, and that a comparison overwrites nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from distributed.errors import UsageError
from scripts.composition.pages import save
from scripts.report import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_comparisons_are_numbered() -> None:
    Path("comparison-2.html").write_text("somebody's")
    written = [save(page, own=None, out=None) for page in ("first", "second")]
    assert written == [Path("comparison.html"), Path("comparison-3.html")]
    assert [path.read_text() for path in written] == ["first", "second"]
    assert Path("comparison-2.html").read_text() == "somebody's"


def test_the_page_of_a_run_is_written_anew() -> None:
    own = Path("run") / "report.html"
    for page in ("first", "second"):
        assert save(page, own=own, out=None) == own
    assert own.read_text() == "second"


@pytest.mark.parametrize("own", [None, Path("run/report.html")])
def test_a_named_file_takes_the_page(own: Path | None) -> None:
    assert save("page", own=own, out="pages/page.html") == Path("pages/page.html")
    assert Path("pages/page.html").read_text() == "page"
    assert not Path("run").exists()


def test_runs_are_compared_where_out_says(random_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    main([str(random_run("a")), str(random_run("b")), "out=both.html"])
    assert capsys.readouterr().out.strip() == "both.html"
    assert "Comparison" in Path("both.html").read_text()
    with pytest.raises(UsageError, match="no run given"):
        main(["out=both.html"])
