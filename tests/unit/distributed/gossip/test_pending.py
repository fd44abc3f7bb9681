"""What waits to be folded into the weights: nothing is lost, nothing counts twice, staleness is counted in updates."""

import pytest
import torch

from distributed.gossip.packing import Message
from distributed.gossip.pending import PendingMixing


def message(*values: float) -> Message:
    return [torch.tensor(values)]


def test_arrivals_are_in_snapshots_at_once_and_in_weights_when_folded_in():
    weights = torch.tensor([1.0, 2.0])
    mixing = PendingMixing([weights])
    sent = mixing.packing.message()
    for taken_at in [mixing.snapshot(sent) for _ in range(2)]:
        mixing.add(message(20.0, 40.0), 0.5, taken_at)
    assert weights.tolist() == [1.0, 2.0]
    mixing.snapshot(sent)
    assert sent[0].tolist() == [21.0, 42.0]
    mixing.fold()
    assert weights.tolist() == [21.0, 42.0]


def test_what_is_folded_in_counts_once():
    weights = torch.zeros(2)
    mixing = PendingMixing([weights])
    sent = mixing.packing.message()
    mixing.add(message(1.0, 2.0), 1.0, mixing.snapshot(sent))
    for _ in range(3):
        mixing.fold()
    mixing.snapshot(sent)
    assert weights.tolist() == sent[0].tolist() == [1.0, 2.0]
    mixing.add(message(4.0, 4.0), 1.0, mixing.updates)
    mixing.fold()
    assert weights.tolist() == [5.0, 6.0]


def test_the_caller_may_overwrite_what_it_gets_for_what_it_added():
    weights = torch.zeros(2)
    mixing = PendingMixing([weights])
    for number, expected in enumerate(([0.5, 1.0], [2.0, 4.0])):
        for each in range(1 + number):
            (spare,) = mixing.add(message(1.0, 2.0), 0.5 + each / 2, mixing.snapshot(mixing.packing.message()))
            spare.fill_(9.0)
        mixing.fold()
        assert weights.tolist() == expected


def test_staleness_is_the_number_of_updates_between_snapshot_and_fold():
    mixing = PendingMixing([torch.zeros(2)])
    taken_at = mixing.snapshot(mixing.packing.message())
    for _ in range(3):
        with mixing.updating():
            pass
    mixing.add(message(0.0, 0.0), 1.0, taken_at)
    mixing.fold()
    assert mixing.take_staleness() == {3: 1}
    assert not mixing.take_staleness()


def test_what_must_not_be_negative_is_kept_from_it_and_the_rest_is_not():
    """An exchange takes from a square what its snapshot had, of which updates have left less since."""
    first, second = torch.tensor([1.0]), torch.tensor([1.0])
    mixing = PendingMixing([first])
    mixing.repack([first, second], nonnegative=[second])
    sent = mixing.packing.message()
    taken_at = mixing.snapshot(sent)
    assert sent[0].tolist() == [1.0, 1.0]
    first.fill_(0.1)
    second.fill_(0.1)
    mixing.add(message(-1.0, -1.0), 0.5, taken_at)
    mixing.fold()
    torch.testing.assert_close(first, torch.tensor([-0.4]))
    assert second.tolist() == [0.0]


def test_what_is_mixed_cannot_change_in_flight():
    weights = torch.zeros(2)
    mixing = PendingMixing([weights])
    taken_at = mixing.snapshot(mixing.packing.message())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="drain first"):
            mixing.repack([weights, weights], ())
        mixing.add(message(1.0, 1.0), 1.0, taken_at)
    mixing.fold()
    mixing.repack([weights, weights], ())
    assert [len(part) for part in mixing.packing.message()] == [4]
