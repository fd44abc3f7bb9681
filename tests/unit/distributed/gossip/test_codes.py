"""Codes of compressed gossip: bytes as computed, errors as promised, both ends bitwise the same."""

import pytest
import torch
from torch import Tensor

from distributed.gossip.codes import Code, code_of

NAMES = ("bf16", "int8", "int4", "topk")
LENGTHS = (0, 1, 5, 300, (1 << 16) + 77)


def code(name: str, rate: int = 10) -> Code:
    found = code_of(name, rate)
    assert found is not None
    return found


def written(name: str, snapshot: Tensor, replica: Tensor, rate: int = 10) -> Tensor:
    """The message, which the replica then holds too."""
    message = code(name, rate).message(len(snapshot))
    code(name, rate).write(snapshot, replica, message)
    return message


def pair(length: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A snapshot and a replica near it."""
    generator = torch.Generator().manual_seed(length)
    snapshot, change = (torch.randn(length, generator=generator, dtype=dtype) for _ in range(2))
    return snapshot, snapshot + 0.01 * change


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_message_has_the_bytes_computed_and_brings_the_replica_nearer(name: str, length: int, dtype: torch.dtype):
    snapshot, replica = pair(length, dtype)
    before, heard = (snapshot - replica).norm(), replica.clone()
    message = written(name, snapshot, replica)
    code(name).add(message, heard)
    assert torch.equal(heard, replica)
    assert message.dtype == torch.uint8
    assert len(message) == code(name).message_bytes(length) == code(name).payload(length).total
    after = (snapshot - replica).norm()
    shares = {"bf16": 2**-8, "int8": 0.02, "int4": 0.3, "topk": (1 - 1 / 10) ** 0.5}
    assert after <= before * shares[name]


@pytest.mark.parametrize(("name", "share"), [("bf16", 1 / 2), ("int8", 1 / 4), ("int4", 1 / 8), ("topk", 3 / 40)])
def test_compression_is_that_of_the_documentation(name: str, share: float):
    assert code(name).message_bytes(1 << 20) == pytest.approx(share * 4 * (1 << 20), rel=0.04)


@pytest.mark.parametrize("rate", [1, 3, 256, 257, 1000])
def test_topk_takes_the_largest_change_of_every_chunk(rate: int):
    snapshot, replica = pair(2500, torch.float64)
    change, before = snapshot - replica, replica.clone()
    written("topk", snapshot, replica, rate)
    for now, then, wanted in zip(replica.split(rate), before.split(rate), change.split(rate), strict=True):
        moved = (now != then).nonzero().flatten().tolist()
        assert moved == [int(wanted.abs().argmax())]
        assert (now - then)[moved].item() == pytest.approx(wanted[moved].item(), rel=0.01, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_learners_that_agree_send_nothing_and_what_is_not_finite_shows(name: str):
    snapshot, _ = pair(600)
    replica = snapshot.clone()
    written(name, snapshot, replica)
    assert torch.equal(replica, snapshot)
    snapshot[17] = torch.inf
    assert not code(name).floats(written(name, snapshot, replica), 600).isfinite().all()


def test_none_has_no_code():
    assert code_of("none", 8) is None
