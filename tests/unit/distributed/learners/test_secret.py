"""What learners know and strangers do not: where it comes from, and who may read it."""

import threading
from pathlib import Path

import pytest

from distributed.learners import environment
from distributed.learners.environment import SECRET, LaunchError, prepare_for_learners
from distributed.learners.secret import drawn, proof, proves, shared_secret

TOLD = ("TORCH_CPP_LOG_LEVEL", "TORCHELASTIC_SIGNALS_TO_HANDLE")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a secret; the file that will hold it."""
    monkeypatch.delenv(SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "murmuration" / "secret"


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "given to all learners")
    assert shared_secret() == b"given to all learners"
    monkeypatch.setenv(SECRET, "short")
    with pytest.raises(LaunchError, match="has 5 characters: 16 or more"):
        shared_secret()


def test_a_launcher_draws_one_unless_it_was_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SECRET, "MURMURATION_LAUNCHER", "OMP_NUM_THREADS", *TOLD):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    prepare_for_learners(first := drawn())
    prepare_for_learners(drawn())
    assert environment.secret_given() == first


def test_the_file_is_private_and_the_same_for_concurrent_starts(home: Path) -> None:
    found: list[bytes] = []
    readers = [threading.Thread(target=lambda: found.append(shared_secret())) for _ in range(8)]
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    assert len(found) == 8
    assert set(found) == {home.read_bytes()}
    assert home.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.parent.iterdir()] == ["secret"]


def test_a_file_that_others_may_read_is_refused(home: Path) -> None:
    shared_secret()
    home.chmod(0o640)
    with pytest.raises(LaunchError, match="is not this user's alone: chmod 600"):
        shared_secret()


@pytest.mark.parametrize(("content", "message"), [("short", "too short"), ("\xe9" * 40, "cannot keep")])
def test_a_file_that_holds_no_secret_is_refused(home: Path, content: str, message: str) -> None:
    home.parent.mkdir()
    home.write_text(content, encoding="utf-8")
    home.chmod(0o600)
    with pytest.raises(LaunchError, match=message):
        shared_secret()


def test_an_unwritable_home_is_reported_with_the_remedy(home: Path) -> None:
    home.parent.write_text("not a folder")
    with pytest.raises(LaunchError, match=f"secret in {home}.*set {SECRET} to the same long random text"):
        shared_secret()


def test_a_proof_covers_the_secret_and_the_whole_message() -> None:
    claimed = proof(b"secret", "member", "nonce", "1")
    assert proves(claimed, b"secret", "member", "nonce", "1")
    for secret, said in ((b"other", ("member", "nonce", "1")), (b"secret", ("centre", "nonce", "1"))):
        assert not proves(claimed, secret, *said)
