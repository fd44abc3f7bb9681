"""Inference: the one loop over batches with which entry points decode, align or score, on any device.

    load -> move to the model -> call the question, without gradients and in the run's precision -> count

The caller gives the question, a function of a batch. Device, precision and timing are handled here only, so that no
result depends on which entry point asks for it.

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
    """The device that this process runs its model on: ``auto`` is its own GPU where there are any, else the CPU.

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
    """Amount and time of inference. The time excludes loading and the processing of answers."""

    utterances: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, batch: Batch, seconds: float) -> None:
        """Count a batch and the time of its answer."""
        self.utterances += len(batch.utterance_ids)
        self.audio_seconds += batch.audio_seconds
        self.seconds += seconds

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of inference per second of audio; None without audio."""
        return self.seconds / self.audio_seconds if self.audio_seconds else None

    def __str__(self) -> str:
        line = f"{self.utterances} utterances, {self.audio_seconds:.1f} s of audio, in {self.seconds:.1f} s"
        factor = self.real_time_factor
        return line if factor is None else f"{line} (real time factor {factor:.4f})"


@dataclass(frozen=True, slots=True)
class Inference(Generic[Model]):
    """A model on its device, with statistics of the batches it has answered: make one for each row of results."""

    model: Model  # on ``device``
    device: torch.device
    precision: Precision
    statistics: Statistics = field(default_factory=Statistics)

    def over(self, batches: Iterable[Batch], question: Callable[[Batch], Answer]) -> Iterator[tuple[Batch, Answer]]:
        """Yields each batch as loaded, with the answer to ``question``; batches without utterances are skipped."""
        return ((batch, self.ask(batch, question)) for batch in batches if batch.utterance_ids)

    def ask(self, batch: Batch, question: Callable[[Batch], Answer]) -> Answer:
        """The answer to ``question`` about a batch, which is moved to the device; in the model's precision."""
        started = time.perf_counter()
        with evaluating(self.model, self.device, self.precision):
            answer = question(self.moved_to_model(batch))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.statistics.add(batch, time.perf_counter() - started)
        return answer

    def moved_to_model(self, batch: Batch) -> Batch:
        """The batch on the model's device, its features in the dtype of the weights."""
        return batch.to(self.device, torch.float64 if self.precision == "fp64" else None)

    @property
    def arithmetic(self) -> str:
        """Precision and device, as text for people."""
        return f"{self.precision} on {self.device.type}"


def states_of(model: Recogniser, batch: Batch) -> tuple[Tensor, Tensor]:
    """Encoder states (B, S, D) of a batch and their lengths (B,), from which every search starts."""
    return model.encode(batch.features, batch.feature_lengths)


@contextmanager
def evaluating(model: SpeechModel, device: torch.device, precision: Precision) -> Iterator[None]:
    """Inside, the model is in evaluation mode, without gradients and in the run's precision; the mode is restored."""
    training = model.training
    model.eval()
    try:
        with computing(device, precision):
            yield
    finally:
        model.train(training)


@contextmanager
def computing(device: torch.device, precision: Precision) -> Iterator[None]:
    """Inside, nothing has gradients, and a model computes in the run's precision."""
    with torch.inference_mode(), autocast(precision, device):
        yield


def log_left_out(bad: BadUtterance) -> None:
    """Log a warning for an utterance that is left out, with file and reason."""
    log.warning("left out: %s", bad)


def load(
    dataset: UnitBatches,
    units: Iterable[Unit],
    *,
    num_workers: int = 0,
    prefetch: int = 1,
    on_refused: Callable[[BadUtterance], None] = log_left_out,
) -> Iterator[Batch]:
    """The batches of ``units``, in order (see ``unit_loader``); utterances refused in loading go to ``on_refused``."""
    for batch in unit_loader(dataset, units, num_workers=num_workers, prefetch=prefetch):
        for bad in batch.refused:
            on_refused(bad)
        yield batch
