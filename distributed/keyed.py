"""Random numbers that depend on what they are for, never on the order in which learners or threads happen to run."""

import hashlib


def keyed_seed(*key: object) -> int:
    """A 63-bit seed that depends on the key alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
