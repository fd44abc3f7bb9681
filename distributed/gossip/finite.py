"""Weights that are not finite are not mixed: one message of them would make every learner's weights so in a few rounds."""

from distributed.errors import UserError
from distributed.gossip.packing import Message


class NonFiniteWeightsError(UserError, RuntimeError):
    """A learner has weights that are not finite, or has sent such; the message names it.

    ``learners`` begins the message: which learners, and whether they hold or have sent them.
    """

    returns = True

    def __init__(self, learners: str) -> None:
        super().__init__(
            f"{learners} weights that are not finite, which were not mixed with others; look at that learner's host and log, or "
            "lower optimizer.lr; the newest checkpoint is intact"
        )


def is_finite(message: Message) -> bool:
    """Whether all numbers of a message are finite: tested on their sum, and one by one where that overflows."""
    return all(bool(part.sum().isfinite()) or bool(part.isfinite().all()) for part in message)


def refuse_non_finite(message: Message, learner: int) -> None:
    """Raise NonFiniteWeightsError unless what ``learner`` has sent is finite."""
    if not is_finite(message):
        raise NonFiniteWeightsError(f"learner {learner} sent")


def check_own(message: Message, learner: int) -> None:
    """Raise NonFiniteWeightsError unless what this learner is about to send is finite: then the error is its own."""
    if not is_finite(message):
        raise NonFiniteWeightsError(f"learner {learner} holds")
