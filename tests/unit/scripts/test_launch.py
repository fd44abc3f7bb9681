"""The launcher: what learners are told, how they end, what is said last. Its learners are small scripts here."""

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distributed.errors import UsageError
from distributed.learners.environment import SECRET
from scripts.composition import launcher
from scripts.composition.agent import OneHost
from scripts.composition.launcher import Launch, launch, launch_options
from scripts.composition.learner_failures import STOPPED
from scripts.composition.startup import REPOSITORY
from tests.processes import listening

BEGIN = f"""
import os, signal, sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from distributed.learners.environment import leave_word
rank, attempt = (int(os.environ[name]) for name in ("RANK", "TORCHELASTIC_RESTART_COUNT"))

def end(code, line, own=True):
    if not leave_word(line, own, code):
        print(line, file=sys.stderr)
    sys.exit(code)
"""

TOLD = ("TORCH_CPP_LOG_LEVEL", "TORCHELASTIC_SIGNALS_TO_HANDLE")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """``run(body, learners, restarts)``: launch that many processes of a script; the exit code."""
    monkeypatch.setattr(launcher, "REPOSITORY", tmp_path)
    (tmp_path / "scripts").mkdir()
    for name in (SECRET, "MURMURATION_LAUNCHER", "OMP_NUM_THREADS", *TOLD):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def start(body: str, learners: int = 2, restarts: int = 0, *arguments: str) -> int:
        (tmp_path / "scripts" / "train.py").write_text(BEGIN + body)
        return launch(Launch(learners, restarts, "train", arguments))

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield start
    logging.disable(logging.NOTSET)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def last_line(captured: pytest.CaptureFixture[str]) -> str:
    return captured.readouterr().err.splitlines()[-1]


def test_learners_share_a_secret_and_meet_on_the_loopback(run: Callable[..., int], tmp_path: Path) -> None:
    body = f"""
names = ("{SECRET}", "MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
with open(f"{tmp_path}/{{rank}}", "w") as file:
    print(*(os.environ[name] for name in names), *sys.argv[1:], file=file)
"""
    assert run(body, 3, 0, "name=run", "a b") == 0
    (said,) = {(tmp_path / str(rank)).read_text() for rank in range(3)}
    secret, *rest = said.split()
    assert len(secret) == 64
    assert " ".join(rest) == "127.0.0.1 True 3 3 name=run a b"


def test_the_store_listens_on_the_loopback_and_is_new_in_each_attempt() -> None:
    before, handler = set(listening()), OneHost(2)
    first, second = handler.next_rendezvous(), handler.next_rendezvous()
    opened = set(listening()) - before
    assert [address for address, _ in opened] == ["127.0.0.1"] * 2
    first.store.set("key", "of the first attempt")
    assert not second.store.check(["key"])
    assert second.bootstrap_store_info is not None
    assert ("127.0.0.1", second.bootstrap_store_info.master_port) in opened


def test_the_error_of_the_learner_that_failed_is_the_last_line(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    body = f"""
if rank == 0:
    while not os.path.exists("{tmp_path}/failed"):  # a learner hears of a failure once there is one
        time.sleep(0.01)
    print("much\\n" * 50, file=sys.stderr)
    end(2, "error on learner 0: learner 1 failed: disk full", own=False)
leave_word("error on learner 1: disk full\\n", True, 3)
open("{tmp_path}/failed", "w").close()
sys.exit(3)
"""
    assert run(body) == 3
    printed = capfd.readouterr()
    assert printed.err.splitlines()[-1] == "error on learner 1: disk full"
    assert set(printed.err.splitlines()[:-1]) <= {"much", ""}, "nothing of the agent's own report"


def test_the_exit_code_is_the_learners_own_where_it_is_ended_after_its_last_line(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    body = """
if rank == 1:
    leave_word("error on learner 1: disk full", True, 3)
    os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    assert run(body) == 3
    assert last_line(capfd) == "error on learner 1: disk full"


@pytest.mark.parametrize(
    ("end", "line", "code"),
    [
        ("os.kill(os.getpid(), 9)", "error: learner 1 was killed by signal 9 (SIGKILL)", 137),
        ("os._exit(5)", "error: learner 1 ended with exit code 5: see what it has printed", 5),
    ],
)
def test_a_learner_that_leaves_no_word_is_named(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str], end: str, line: str, code: int
) -> None:
    assert run(f"if rank == 1:\n    {end}\ntime.sleep(60)") == code
    assert last_line(capfd) == line


def test_learners_are_restarted_as_often_as_set_and_the_reason_is_printed(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    body = "if rank == 1 and attempt < 2:\n    end(2, f'error on learner 1: attempt {attempt}')"
    assert run(body, 2, 2) == 0
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "restart" in line] == [
        "error on learner 1: attempt 0; restart 1 of 2",
        "error on learner 1: attempt 1; restart 2 of 2",
    ]


def test_when_no_restart_is_left_the_error_is_printed_once(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("end(2, f'error on learner {rank}: attempt {attempt}')", 1, 1) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "error on learner 0: attempt 1"


@pytest.mark.parametrize(
    ("ending", "code", "line"),
    [
        ("sys.exit(7)", 7, "ended by SIGTERM"),
        ("os.kill(os.getpid(), 9)", 143, "ended by SIGTERM"),
        # Learners that saved say so; in one write each, as both may do it at once.
        (f"(sys.stderr.write('saved\\n'), sys.exit({STOPPED}))", STOPPED, "saved"),
    ],
)
def test_a_signal_reaches_the_learners_and_their_common_exit_code_counts(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path, ending: str, code: int, line: str
) -> None:
    body = f"""
signal.signal(signal.SIGTERM, lambda *_: {ending})
open(f"{tmp_path}/ready-{{rank}}", "w").close()
while not os.path.exists("{tmp_path}/ready-1") or not os.path.exists("{tmp_path}/ready-0"):
    time.sleep(0.01)
if rank == 0:
    os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""
    assert run(body) == code
    assert last_line(capfd) == line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--learners 2", "what shall be started is not said: one of train, train_lm, make_nbest"),
        ("train name=x", "--learners=None: the number of processes is needed"),
        ("--learners 0 train", "--learners=0: the number"),
        ("--learners two train", "invalid int value: 'two'"),
        ("--learners 2 --restarts -1 train", "--restarts=-1: must be 0 or more"),
        ("--learners 2 --nodes 2 train", "unrecognized arguments: --nodes 2; see python scripts/launch.py --help"),
    ],
)
def test_what_cannot_be_launched_is_refused_in_one_line(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        launch_options(line.split(), "")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_follows_the_entry_point_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--learners", "2", "--restarts", "3", "train_lm", "--cfg", "train"]
    assert launch_options(arguments, "") == Launch(2, 3, "train_lm", ["--cfg", "train"])
    assert launch_options(["--help"], "what it does") is None
    assert capsys.readouterr().out == "what it does\n"
