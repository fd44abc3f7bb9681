"""Asking a model about batches: the one loop of whatever decodes, aligns or scores, on any device.

    load -> move to the model -> ask, without gradients and in the run's arithmetic -> count

Who asks gives a function of a batch. Where the model computes, in which arithmetic, and how long its answers take is
known here alone, so that no result depends on which entry point asks for it.

B utterances   T feature frames   S encoder states   D state dimension
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from asr.data.audio import BadUtterance
from asr.data.batch import Batch, Unit
from asr.data.pipeline import UnitBatches, unit_loader
from asr.models.speech_model import Recogniser, SpeechModel
from asr.training.precision import Precision, autocast
from distributed.errors import UsageError
from distributed.learners import launch
from distributed.learners.environment import LaunchError, place

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=SpeechModel, covariant=True)
Answer = TypeVar("Answer")


def chosen_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Where this process asks its model: ``auto`` is its own GPU where there are any, else the CPU.

    Raises:
        UsageError: this host has fewer GPUs than processes that want one.
    """
    here = place()
    try:
        return launch.chosen_device(here, device)
    except LaunchError:
        raise UsageError(
            f"device={device}: torch {torch.__version__} finds {torch.cuda.device_count()} GPUs for the "
            f"{here.local_size} processes of this host; device may be auto, cpu or cuda: choose device=cpu"
        ) from None


@dataclass(slots=True)
class Statistics:
    """What a model was asked. Loading, and what is made of the answers, take no part in the time."""

    utterances: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, batch: Batch, seconds: float) -> None:
        """Count a batch and the time that its answer took."""
        self.utterances += len(batch.utterance_ids)
        self.audio_seconds += batch.audio_seconds
        self.seconds += seconds

    def __str__(self) -> str:
        line = f"{self.utterances} utterances, {self.audio_seconds:.1f} s of audio, in {self.seconds:.1f} s"
        if not self.audio_seconds:
            return line
        return f"{line} (real time factor {self.seconds / self.audio_seconds:.4f})"


@dataclass(frozen=True, slots=True)
class Inference(Generic[Model]):
    """A model where it computes; batches come from anywhere. One for each row of figures: it counts what it is asked."""

    model: Model  # on ``device``
    device: torch.device
    precision: Precision
    statistics: Statistics = field(default_factory=Statistics)

    def over(self, batches: Iterable[Batch], question: Callable[[Batch], Answer]) -> Iterator[tuple[Batch, Answer]]:
        """Each batch as it was loaded, and the answer to ``question`` about it; batches without utterances have none."""
        return ((batch, self.ask(batch, question)) for batch in batches if batch.utterance_ids)

    def ask(self, batch: Batch, question: Callable[[Batch], Answer]) -> Answer:
        """The answer about a batch, which ``question`` is given on the device, in the model's arithmetic."""
        started = time.perf_counter()
        with evaluating(self.model, self.device, self.precision):
            answer = question(self.moved_to_model(batch))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.statistics.add(batch, time.perf_counter() - started)
        return answer

    def moved_to_model(self, batch: Batch) -> Batch:
        """The batch where the model is, its features as wide as the weights."""
        return batch.to(self.device, torch.float64 if self.precision == "fp64" else None)

    @property
    def arithmetic(self) -> str:
        """For people: the precision and the device."""
        return f"{self.precision} on {self.device.type}"


def states_of(model: Recogniser, batch: Batch) -> tuple[Tensor, Tensor]:
    """Encoder states (B, S, D) of a batch and their lengths (B,): what every search starts from."""
    return model.encode(batch.features, batch.feature_lengths)


@contextmanager
def evaluating(model: SpeechModel, device: torch.device, precision: Precision) -> Iterator[None]:
    """The model in evaluation mode, and back, without gradients and in the run's arithmetic."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(precision, device):
            yield
    finally:
        model.train(training)


def log_left_out(bad: BadUtterance) -> None:
    """Warn of an utterance that takes no part, with file and reason."""
    log.warning("left out: %s", bad)


def load(
    dataset: UnitBatches,
    units: Iterable[Unit],
    *,
    num_workers: int = 0,
    prefetch: int = 1,
    on_refused: Callable[[BadUtterance], None] = log_left_out,
) -> Iterator[Batch]:
    """The batches of ``units``, in their order (see ``unit_loader``); what is refused while loading goes to ``on_refused``."""
    for batch in unit_loader(dataset, units, num_workers=num_workers, prefetch=prefetch):
        for bad in batch.refused:
            on_refused(bad)
        yield batch
