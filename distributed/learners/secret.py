"""A secret that the learners of one user share, and how two ends of a connection show that they know it without saying it.

The rendezvous' store may be read and written by whoever reaches its port, so nothing of the secret is in it. It is
what ``MURMURATION_SECRET`` says (scripts/launch.py draws one for each launch), or else the content of a file of the
user's own, which is drawn once and which no other user may read.

    centre -> member: challenge <nonce>
    member -> centre: learner <rank> <nonce of its own> <proof of the member>
    centre -> member: welcome <launch id> <proof of the centre>

A proof is an HMAC-SHA256 (RFC 2104) of both nonces and what the line says, so that none can be played again.
"""

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from distributed.learners.environment import SECRET, LaunchError, cache_folder, secret_given

_SHORTEST = 16  # characters


def drawn() -> str:
    """A new random text, used as a secret or as a nonce."""
    return secrets.token_hex(32)


def shared_secret() -> bytes:
    """The secret that only the learners of this launch know.

    Raises:
        LaunchError: it is too short, cannot be kept, or others can read it.
    """
    given = secret_given()
    if given is not None and len(given) < _SHORTEST:
        raise LaunchError(
            f"{SECRET} has {len(given)} characters: {_SHORTEST} or more are needed, the same for all learners"
        )
    return (given or _kept(cache_folder() / "murmuration" / "secret")).encode()


def _kept(path: Path) -> str:
    """The secret in the user's file; the file is created where there is none."""
    try:
        if not path.exists():
            _make(path)
        status, content = path.stat(), path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise LaunchError(
            f"cannot keep the learners' secret in {path}: {why}; set {SECRET} to the same long random text for all of them"
        ) from None
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise LaunchError(f"{path} holds the learners' secret and is not this user's alone: chmod 600, or remove it")
    if len(content) < _SHORTEST:
        raise LaunchError(f"{path} holds the learners' secret and is too short: remove it, and it is drawn anew")
    return content


def _make(path: Path) -> None:
    """Create the file atomically. Of several processes that start together one succeeds; the others read its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(drawn())
        with suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink()


def proof(secret: bytes, *said: str) -> str:
    """Proves that the sender knows the secret and sends ``said`` now: one of these is a nonce of the other side."""
    return hmac.new(secret, "|".join(said).encode(), "sha256").hexdigest()


def proves(claimed: str, secret: bytes, *said: str) -> bool:
    """Whether ``claimed`` is the proof of ``said``, compared in constant time."""
    return hmac.compare_digest(claimed.encode(), proof(secret, *said).encode())
