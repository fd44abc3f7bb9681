"""Evaluation during training: loss and errors of the consensus model, shared out between the learners."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from asr.data.batch import Batch, Unit
from asr.data.pipeline import UnitBatches, unit_loader
from asr.data.screening import Screened
from asr.data.tokenizer import Tokenizer
from asr.decoding.search import Hypothesis
from asr.models.speech_model import Recogniser, SpeechModel
from asr.training.measures import Decode, Measure, Texts, hypotheses, texts
from asr.training.parts import LoaderOptions
from asr.training.precision import Precision, autocast
from distributed.learners.launch import World

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """A named set of utterances, cut into units of similar length."""

    name: str
    dataset: UnitBatches
    units: Sequence[Unit]
    screened: Screened


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was said and what was recognised."""

    references: Texts
    hypotheses: Texts


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


def in_place(batch: Batch, device: torch.device, precision: Precision) -> Batch:
    """The batch where the model is, in its arithmetic."""
    return batch.to(device, torch.float64 if precision == "fp64" else None)


def decode_batch(
    model: Recogniser, batch: Batch, decode: Decode, device: torch.device, precision: Precision
) -> list[Hypothesis]:
    """Hypotheses of one batch, in its order."""
    batch = in_place(batch, device, precision)
    with evaluating(model, device, precision):
        return hypotheses(model, batch, model(batch), decode)


def decode_set(
    model: Recogniser,
    batches: Iterator[Batch],
    *,
    decode: Decode,
    tokenizer: Tokenizer,
    device: torch.device,
    precision: Precision,
) -> Decoded:
    """Texts of some batches."""
    decoded = Decoded({}, {})
    for batch in told(batches):
        references, written = texts(batch, decode_batch(model, batch, decode, device, precision), tokenizer)
        decoded.references.update(references)
        decoded.hypotheses.update(written)
    return decoded


def measure_batch(
    model: SpeechModel, batch: Batch, measure: Measure, device: torch.device, precision: Precision
) -> torch.Tensor:
    """Four sums of one batch, float64: loss, weight, errors, and what they are errors of."""
    batch = in_place(batch, device, precision)
    with evaluating(model, device, precision):
        output = model(batch)
        errors, total = measure.count(model, batch, output)
    return torch.tensor([float(output.total), batch.weight, errors, total], dtype=torch.float64)


def told(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; what was refused while loading them is said."""
    for batch in batches:
        for bad in batch.refused:
            log.warning("not evaluated: %s", bad)
        yield batch


class Evaluator:
    """Evaluates a model on the configured sets; called by all learners together."""

    def __init__(
        self,
        *,
        sets: Sequence[EvaluationSet],
        measure: Measure,
        world: World,
        loader: LoaderOptions,
        precision: Precision,
    ) -> None:
        self.sets = sets
        self.measure = measure
        self.world = world
        self.loader = loader
        self.precision = precision

    def evaluate(self, model: SpeechModel) -> dict[str, float]:
        """``eval/<set>/loss`` per utterance and ``eval/<set>/<figure>`` of the measure, over all learners."""
        metrics: dict[str, float] = {}
        for evaluated in self.sets:
            own = evaluated.units[self.world.rank :: self.world.size]
            batches = unit_loader(
                evaluated.dataset, own, num_workers=self.loader.num_workers, prefetch=self.loader.prefetch
            )
            sums = torch.zeros(4, dtype=torch.float64)
            for batch in told(batches):
                sums += measure_batch(model, batch, self.measure, self.world.device, self.precision)
            loss, weight, errors, total = self.world.all_reduce_sum(sums).tolist()
            metrics[f"eval/{evaluated.name}/loss"] = loss / max(weight, 1.0)
            figures = self.measure.figures(errors, total)
            metrics |= {f"eval/{evaluated.name}/{name}": value for name, value in figures.items()}
        return metrics

    def selecting_figure(self, metrics: Mapping[str, float]) -> float | None:
        """The figure by which the best checkpoint is chosen, lower is better; None if nothing is evaluated."""
        return metrics[f"eval/{self.sets[0].name}/{self.measure.name}"] if self.sets else None
