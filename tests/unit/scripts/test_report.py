"""Where the page about runs goes, and that a comparison overwrites nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.reporting.server import PageServer
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


def test_a_baseline_is_one_of_the_runs(random_run: Callable[..., Path]) -> None:
    runs = [str(random_run(name)) for name in ("a", "b")]
    main([*runs, "baseline=b", "out=named.html"])
    main([*runs, f"baseline={runs[1]}", "out=path.html"])
    assert Path("named.html").read_text() == Path("path.html").read_text()
    assert '2. b<span class="aside">baseline' in Path("named.html").read_text()
    with pytest.raises(UsageError, match=r"^baseline=c: must be one of the runs of the page: .*/a, .*/b$"):
        main([*runs, "baseline=c"])


def test_a_folder_of_runs_gets_an_index(random_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = random_run("a").parent
    random_run("b")
    for _ in range(2):
        main([str(folder)])
        assert capsys.readouterr().out.strip() == str(folder / "index.html")
    assert f"2 runs in {folder.name}" in (folder / "index.html").read_text()
    with pytest.raises(UsageError, match=r"^baseline=a: an index compares nothing"):
        main([str(folder), "baseline=a"])
    (folder / "index.html").write_text("somebody's own page")
    with pytest.raises(UsageError, match=r"index\.html was not written by this program; name another file with out="):
        main([str(folder)])
    assert (folder / "index.html").read_text() == "somebody's own page"


def test_a_watched_page_is_served_and_not_written(
    random_run: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, served = random_run("a"), []

    def serve_forever(server: PageServer) -> None:
        served.append(server.watched.page()[0].decode())
        (run / "metrics").mkdir(exist_ok=True)
        row = '{"step": 1, "global_step": 1, "samples": 8, "epoch": 0.1, "wall_seconds": 1.0, "train/loss": 0.5}'
        (run / "metrics" / "0.jsonl").write_text(row + "\n")
        server.watched._next_at = 0.0
        served.append(server.watched.page()[0].decode())
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", serve_forever)
    main([str(run), "watch=true", "port=0", "watch_seconds=7"])
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    assert not (run / "report.html").exists()
    assert all('data-watch="7"' in page for page in served)
    assert ["Training loss</h3>" in page for page in served] == [False, True]
    with pytest.raises(UsageError, match=r"^out=x\.html: a watched page is served and not written"):
        main([str(run), "watch=true", "out=x.html"])
