"""Messages: several buffers, one tensor per dtype, cut into equal shares."""

import pytest
import torch

from distributed.gossip.packing import Packing


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_a_message_holds_every_buffer_once_and_can_be_cut(shares: int):
    buffers = [torch.arange(5.0), torch.arange(3, dtype=torch.float64), torch.arange(4.0) + 10]
    packing = Packing(buffers, shares)
    message = packing.message()
    packing.take_snapshot(message)
    assert [part.dtype for part in message] == [torch.float32, torch.float64]
    assert message[0][:9].tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13]
    assert message[1][:3].tolist() == [0, 1, 2]
    for part, length in zip(message, (9, 3), strict=True):
        assert len(part) % shares == 0
        assert len(part) < length + shares
        assert (part[length:] == 0).all()


def test_adding_a_snapshot_doubles_the_buffers():
    buffers = [torch.randn(5), torch.randn(3).double(), torch.randn(4)]
    expected = [2 * buffer for buffer in buffers]
    packing = Packing(buffers, 4)
    message = packing.message()
    packing.take_snapshot(message)
    packing.add(message)
    assert all(torch.equal(a, b) for a, b in zip(buffers, expected, strict=True))


def test_a_snapshot_with_differences_leaves_the_buffers_alone():
    buffers = [torch.randn(5), torch.randn(3).double(), torch.randn(4)]
    before = [buffer.clone() for buffer in buffers]
    packing = Packing(buffers, 4)
    message, differences = packing.message(), packing.message()
    packing.take_snapshot(differences)
    packing.take_sum(message, differences, 0.5)
    assert all(torch.equal(part, 1.5 * difference) for part, difference in zip(message, differences, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(buffers, before, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_message_may_be_overwritten_as_soon_as_it_is_added():
    """Its copy to the device is over by then: asynchronous gossip writes what comes next over what waited to be folded in."""
    buffer = torch.zeros(1 << 24, device="cuda")
    packing = Packing([buffer])
    (part,) = message = packing.message()
    for _ in range(20):
        part.fill_(1.0)
        torch.cuda._sleep(10_000_000)  # the copy would wait behind this
        packing.add(message)
        part.zero_()
    assert (buffer == 20).all()
