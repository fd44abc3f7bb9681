"""Evaluation during training: loss and errors of the consensus model, with the sets divided among the learners."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.data.batch import Batch, Unit
from asr.data.pipeline import UnitBatches
from asr.data.screening import Screened
from asr.data.tokenizer import Tokenizer
from asr.decoding.search import Hypothesis
from asr.models.speech_model import Recogniser, SpeechModel
from asr.training.inference import Inference, load, states_of
from asr.training.measures import Decode, Measure, Texts, texts
from asr.training.parts import LoaderOptions
from asr.training.precision import Precision
from distributed.learners.world import World


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """A named set of utterances, cut into units of similar length."""

    name: str
    dataset: UnitBatches
    units: Sequence[Unit]
    screened: Screened

    def batches(self) -> Iterator[Batch]:
        """The batches of the whole set, loaded in this process."""
        return load(self.dataset, self.units)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Reference and recognised texts, by utterance id."""

    references: Texts
    hypotheses: Texts


def decode_batches(
    inference: Inference[Recogniser], batches: Iterator[Batch], decode: Decode
) -> Iterator[tuple[Batch, list[Hypothesis]]]:
    """Each batch with its hypotheses, in the order of its utterances."""
    model = inference.model
    return inference.over(batches, lambda batch: decode(model, *states_of(model, batch)))


def decode_set(
    inference: Inference[Recogniser], batches: Iterator[Batch], *, decode: Decode, tokenizer: Tokenizer
) -> Decoded:
    """Decode some batches; return references and hypotheses as texts."""
    decoded = Decoded({}, {})
    for batch, found in decode_batches(inference, batches, decode):
        references, written = texts(batch, found, tokenizer)
        decoded.references.update(references)
        decoded.hypotheses.update(written)
    return decoded


def measure_batch(model: SpeechModel, batch: Batch, measure: Measure) -> Tensor:
    """Four sums of one batch, float64: loss, weight, errors, and the number of items the errors are counted against."""
    output = model(batch)
    errors, total = measure.count(model, batch, output)
    return torch.tensor([float(output.total), batch.weight, errors, total], dtype=torch.float64)


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

    def evaluate(self, model: SpeechModel, *, may_stop: bool = False) -> dict[str, float] | None:
        """``eval/<set>/loss`` per utterance and ``eval/<set>/<figure>`` of the measure, over all learners.

        ``may_stop``: give it up where learners are asked to stop; then the result is None on all of them.
        """
        metrics: dict[str, float] = {}
        for evaluated in self.sets:
            own = evaluated.units[self.world.rank :: self.world.size]
            batches = load(evaluated.dataset, own, num_workers=self.loader.num_workers, prefetch=self.loader.prefetch)
            sums = torch.zeros(5, dtype=torch.float64)  # the last one: learners that have given it up
            inference = Inference(model, self.world.device, self.precision)
            for _, counted in inference.over(batches, lambda batch: measure_batch(model, batch, self.measure)):
                sums[:4] += counted
                if may_stop and self.world.gate.stopping:
                    sums[4] = 1
                    break
            loss, weight, errors, total, given_up = self.world.all_reduce_sum(sums).tolist()
            if given_up:
                return None
            metrics[f"eval/{evaluated.name}/loss"] = loss / max(weight, 1.0)
            figures = self.measure.figures(errors, total)
            metrics |= {f"eval/{evaluated.name}/{name}": value for name, value in figures.items()}
        return metrics

    def selecting_figure(self, metrics: Mapping[str, float]) -> float | None:
        """The metric by which the best checkpoint is chosen, lower is better; None if nothing is evaluated."""
        return metrics[f"eval/{self.sets[0].name}/{self.measure.name}"] if self.sets else None
