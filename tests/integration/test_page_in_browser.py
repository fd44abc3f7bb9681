"""The page in a real browser, headless Chromium, where there is one with its driver: fast, quiet, and it does what it says.

The driver speaks the WebDriver protocol, JSON over HTTP, for which the standard library is enough.
"""

import json
import math
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr.reporting.index import Entry, index_page
from asr.reporting.report import report
from asr.reporting.run import RunRecord
from asr.reporting.server import PageServer, Watched

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver: apt-get install chromium-driver"
    ),
]
RUNS, STEPS = 10, 10_000
MOST_SECONDS = 2.0
PATIENCE_SECONDS = 60.0  # of a test with a page that is made anew, on a machine with other work


class Browser:
    """A session of a browser."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        options = {
            "binary": CHROMIUM,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        started = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{started['sessionId']}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        self.ask("POST", f"{self.session}/url", {"url": address})

    def run(self, script: str) -> Any:
        return self.ask("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("POST", f"{self.session}/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("POST", f"{self.session}/se/log", {"type": kind})
        return found

    def command(self, name: str, **parameters: Any) -> Any:
        return self.ask("POST", f"{self.session}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def resize(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        browser = None
        for _ in range(100):
            try:
                browser = Browser(port)
                break
            except OSError:
                time.sleep(0.1)
        assert browser is not None, "chromedriver does not start"
        yield browser
        browser.ask("DELETE", browser.session)
    finally:
        driver.terminate()
        driver.wait(10)


def long_run(index: int) -> RunRecord:
    """A run of many logged steps, with a spike of the gradient norm in one of them."""
    noise = np.random.default_rng(index)
    step = np.arange(1, STEPS + 1)
    loss = 60 * np.exp(-step / 1500) + 1 + 0.1 * index + 0.3 * noise.random(STEPS)
    norm = 3 + noise.random(STEPS)
    norm[7777] = 500.0
    rows = [
        {
            "step": int(each), "global_step": int(each), "samples": 16 * int(each), "epoch": each / 100,
            "wall_seconds": 0.25 * each * (1 + 0.1 * index), "train/loss": float(loss[i]), "train/grad_norm": float(norm[i]),
            "time/step": 0.25, "time/compute": 0.2, "time/data_wait": 0.01, "time/comm_exposed": 0.04,
            "comm/bytes_sent": 1e6 * (index + 1), "throughput/audio_seconds_per_second": 100 + noise.random(),
        }
        for i, each in enumerate(step)
    ]  # fmt: skip
    for place in range(999, STEPS, 1000):
        rows[place]["eval/dev/wer"] = 0.5 * math.exp(-place / 4000) + 0.05
    return RunRecord(f"run <b>{index}</b>", {0: rows}, [], "", {"seed": index}, {})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(report([long_run(index) for index in range(RUNS)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened(browser: Browser, page: Path) -> Browser:
    browser.resize(1400, 1000)
    browser.command("Performance.enable", timeDomain="threadTicks")
    browser.open(page.as_uri())
    return browser


READ = "return [...document.querySelectorAll('.tip:not([hidden])')].map(each => each.innerText).join('|')"


def figure(title: str) -> str:
    return f"[...document.querySelectorAll('figure')].find(each => each.querySelector('h3')?.textContent === '{title}' && each.offsetParent)"


def test_it_is_there_in_two_seconds_and_asks_nobody_for_anything(opened: Browser, page: Path) -> None:
    # Seconds of the page's thread, parsing and layout included: those of the clock depend on what else the machine does.
    spent = {each["name"]: each["value"] for each in opened.command("Performance.getMetrics")["metrics"]}
    loaded = opened.run("return performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
    print(f"{spent['TaskDuration']:.2f} s of the page's thread; loaded after {loaded:.2f} s by the clock")
    assert 0 < spent["TaskDuration"] < MOST_SECONDS
    asked = [json.loads(each["message"])["message"] for each in opened.log("performance")]
    requests = [each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    assert [each for each in requests if not each.startswith("data:")] == [page.as_uri()]
    assert opened.log("browser") == [], "no errors and no warnings"
    assert opened.run("return document.querySelectorAll('b').length") == 0, "names are text"


def test_curves_can_be_seen_over_steps_time_and_bytes(opened: Browser) -> None:
    ends = f"return [...{figure('Training loss')}.querySelectorAll('[data-part=line] path')].map(each => +each.getAttribute('d').match(/([\\d.]+) [\\d.]+\\s*$/)[1])"
    choose = "document.querySelector('.controls input[value={}]').click(); return {}.querySelector('.over').textContent"
    samples = opened.run(ends)
    assert max(samples) - min(samples) < 1, "all runs have as many samples"
    assert opened.run(choose.format("seconds", figure("Training loss"))) == "over time of training"
    seconds = np.array(opened.run(ends))
    left, right = opened.run(
        f"return {figure('Training loss')}.querySelector('svg.plot').dataset.box.split(' ').map(Number)"
    )[::2]
    reach = 0.25 * STEPS * (1 + 0.1 * np.arange(RUNS))
    np.testing.assert_allclose((seconds - left) / (right - left), 0.0192 + 0.9615 * reach / reach[-1], atol=0.005)
    assert opened.run(choose.format("bytes", figure("Training loss"))) == "over bytes sent by all learners"
    sent = np.array(opened.run(ends))
    np.testing.assert_allclose(
        (sent - left) / (right - left), 0.0192 + 0.9615 * (np.arange(RUNS) + 1) / RUNS, atol=0.005
    )
    opened.run("document.querySelector('.controls input[value=samples]').click()")
    np.testing.assert_allclose(opened.run(ends), samples)


def test_values_are_read_by_keyboard(opened: Browser) -> None:
    opened.run(f"{figure('Word error rate')}.querySelector('svg.plot').focus()")
    opened.press("\ue010")  # End
    said = opened.run(READ)
    assert said.startswith("at 160k samples\nrun <b>0</b>: 9.")
    assert said.count("\n") == RUNS
    opened.press("\ue011", "\ue014")  # Home, ArrowRight
    assert opened.run(READ).startswith("at 32k samples\nrun <b>0</b>: "), "the second evaluation"
    opened.press("\ue00c")  # Escape
    assert opened.run(READ) == ""


def test_values_are_read_by_pointer(opened: Browser) -> None:
    at = (
        f"const plot = {figure('Word error rate')}.querySelector('svg.plot'); plot.scrollIntoView(); const box = plot.getBoundingClientRect(); "
        "plot.dispatchEvent(new PointerEvent({}, {{clientX: box.right - 5, clientY: box.top + 20, bubbles: true}}))"
    )
    opened.run(at.format("'pointermove'"))
    said = opened.run(READ)
    assert said.startswith("at 160k samples\nrun <b>0</b>: 9."), "what lies nearest to the pointer"
    assert said.count("\n") == RUNS
    opened.run(at.format("'pointerleave'"))
    assert opened.run(READ) == ""


def test_no_extreme_is_lost(opened: Browser) -> None:
    highest = f"const f = {figure('Gradient norm')}, box = f.querySelector('svg.plot').dataset.box.split(' ').map(Number); return [box[1], Math.min(...[...f.querySelectorAll('[data-part=back] path')].flatMap(each => [...each.getAttribute('d').matchAll(/[\\d.]+ ([\\d.]+)/g)].map(pair => +pair[1])))]"
    top, drawn = opened.run(highest)
    assert drawn < top + 12, "the spike of one step reaches the top of its chart"


def test_runs_are_hidden_by_boxes_and_by_name(opened: Browser) -> None:
    count = "return [document.querySelectorAll('#comparison tbody tr:not([hidden])').length, {}.querySelectorAll('[data-part=line]:not([hidden])').length]"
    count = count.replace("{}", figure("Training loss"))
    rows, lines = opened.run(count)
    opened.run("document.querySelector('.controls input[type=checkbox]').click()")
    assert opened.run(count)[1] == lines - 1 == RUNS - 1
    opened.run(
        "const f = document.querySelector('.controls input[type=search]'); f.value = '<B>7'; f.dispatchEvent(new Event('input'))"
    )
    assert opened.run(count)[1] == 1
    opened.run(
        "const f = document.querySelector('.controls input[type=search]'); f.value = ''; f.dispatchEvent(new Event('input'))"
    )
    assert opened.run(count) == [rows, lines]


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_itself_never_scrolls_sideways_and_wide_tables_do(opened: Browser, width: int) -> None:
    opened.resize(width, 900)
    assert opened.run("return document.documentElement.scrollWidth") <= width
    wide = opened.run(
        "const each = document.querySelector('#comparison .scroll'); return [each.scrollWidth, each.clientWidth]"
    )
    assert wide[0] > wide[1] or width > 1000
    opened.resize(1400, 1000)


def test_a_watched_page_renews_itself_and_keeps_what_was_chosen(browser: Browser, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("1")
    records = [RunRecord(name, {0: long_run(0).rows[0][:50]}, [], "", {}, {}) for name in ("one", "two")]

    def make() -> str:
        return report([*records, *records[: len(source.read_text()) - 1]], watched_seconds=1)

    server = PageServer(Watched(make, lambda: [source], 0.0, share=1.0), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        browser.log("browser")
        browser.open(server.address)
        assert browser.run("return document.title").startswith("Comparison of 2 runs")
        source.write_text("12")  # at once: the page may not have asked yet
        browser.run("document.querySelector('.controls input[value=steps]').click()")
        until = time.monotonic() + PATIENCE_SECONDS
        while browser.run("return document.title").startswith("Comparison of 2 runs") and time.monotonic() < until:
            time.sleep(0.2)
        assert browser.run("return document.title").startswith("Comparison of 3 runs")
        assert browser.run("return document.querySelector('.controls input[value=steps]').checked"), (
            "kept over the reload"
        )
        assert (
            browser.run(f"return {figure('Training loss')}.querySelector('.over').textContent") == "over global steps"
        )
        browser.run("window.stays = true")
        time.sleep(2.5)  # it asks twice, and nothing has changed
        assert browser.run("return window.stays")
        assert browser.log("browser") == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_lines_of_an_index_are_found_by_their_words(browser: Browser, tmp_path: Path) -> None:
    entries = [Entry(tmp_path / name, None, "its rows are damaged") for name in ("alpha-one", "alpha-two", "bravo")]
    path = tmp_path / "index.html"
    path.write_text(index_page(tmp_path, entries), encoding="utf-8")
    browser.log("browser")
    browser.open(path.as_uri())
    type_in = "const f = document.querySelector('input[data-filters]'); f.value = '{}'; f.dispatchEvent(new Event('input')); return [...document.querySelectorAll('tbody tr:not([hidden])')].length"
    assert [browser.run(type_in.format(words)) for words in ("", "ALPHA", "two alpha", "zulu")] == [3, 2, 1, 0]
    assert browser.log("browser") == []
