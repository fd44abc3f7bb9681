"""Evaluation during training: loss and word error rate of the consensus model, shared out between the learners."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asr.data.batch import Batch, Unit
from asr.data.pipeline import UnitDataset, unit_loader
from asr.data.screening import Screened
from asr.data.tokenizer import Tokenizer
from asr.decoding.search import Hypothesis
from asr.decoding.wer import score
from asr.models.transducer import Transducer
from asr.training.parts import LoaderOptions
from asr.training.precision import Precision, autocast
from distributed.launch import World

log = logging.getLogger(__name__)


class Decode(Protocol):
    """A search: from encoder states to one hypothesis per utterance."""

    name: str

    def __call__(self, model: Transducer, encoder_states: Tensor, lengths: Tensor) -> list[Hypothesis]:
        """Decode a batch of encoder states (B, S, D) with their lengths (B,)."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """A named set of utterances, cut into units of similar length."""

    name: str
    dataset: UnitDataset
    units: Sequence[Unit]
    screened: Screened


@dataclass(frozen=True, slots=True)
class Decoded:
    """One learner's share of a decoded set."""

    loss: float  # summed
    weight: float
    references: dict[str, str]
    hypotheses: dict[str, str]


@torch.inference_mode()
def decode_batch(
    model: Transducer, batch: Batch, decode: Decode, device: torch.device, precision: Precision
) -> tuple[float, list[Hypothesis]]:
    """Summed loss and hypotheses of one batch; the model is put into evaluation mode and back."""
    training = model.training
    model.eval()
    try:
        batch = batch.to(device, torch.float64 if precision == "fp64" else None)
        with autocast(precision, device):
            output = model(batch)
            if output.encoder_states is None:
                return float(output.total), []
            lengths_B = model.encoder.state_lengths(batch.feature_lengths)
            return float(output.total), decode(model, output.encoder_states, lengths_B)
    finally:
        model.train(training)


def decode_set(
    model: Transducer,
    batches: Iterator[Batch],
    *,
    decode: Decode,
    tokenizer: Tokenizer,
    device: torch.device,
    precision: Precision,
) -> Decoded:
    """Loss and texts of some batches."""
    total, weight = 0.0, 0.0
    references: dict[str, str] = {}
    hypotheses: dict[str, str] = {}
    for batch in batches:
        for bad in batch.refused:
            log.warning("not evaluated: %s", bad)
        loss, found = decode_batch(model, batch, decode, device, precision)
        total += loss
        weight += batch.weight
        for utterance, hypothesis, targets, length in zip(
            batch.utterance_ids, found, batch.targets.tolist(), batch.target_lengths.tolist(), strict=True
        ):
            references[utterance] = tokenizer.decode(targets[:length])
            hypotheses[utterance] = tokenizer.decode(hypothesis.tokens)
    return Decoded(total, weight, references, hypotheses)


class Evaluator:
    """Evaluates a model on the configured sets; called by all learners together."""

    def __init__(
        self,
        *,
        sets: Sequence[EvaluationSet],
        decode: Decode,
        tokenizer: Tokenizer,
        world: World,
        loader: LoaderOptions,
        precision: Precision,
    ) -> None:
        self.sets = sets
        self.decode = decode
        self.tokenizer = tokenizer
        self.world = world
        self.loader = loader
        self.precision = precision

    def evaluate(self, model: Transducer) -> dict[str, float]:
        """``eval/<set>/loss`` per utterance and ``eval/<set>/wer``, over all learners."""
        metrics: dict[str, float] = {}
        for evaluated in self.sets:
            own = evaluated.units[self.world.rank :: self.world.size]
            batches = unit_loader(
                evaluated.dataset, own, num_workers=self.loader.num_workers, prefetch=self.loader.prefetch
            )
            decoded = decode_set(
                model,
                batches,
                decode=self.decode,
                tokenizer=self.tokenizer,
                device=self.world.device,
                precision=self.precision,
            )
            counts = score(decoded.references, decoded.hypotheses)
            sums = torch.tensor(
                [decoded.loss, decoded.weight, counts.errors, counts.reference_words], dtype=torch.float64
            )
            loss, weight, errors, words = self.world.all_reduce_sum(sums).tolist()
            metrics[f"eval/{evaluated.name}/loss"] = loss / max(weight, 1.0)
            metrics[f"eval/{evaluated.name}/wer"] = errors / max(words, 1.0)
        return metrics

    def selecting_wer(self, metrics: Mapping[str, float]) -> float | None:
        """The figure by which the best checkpoint is chosen; None if nothing is evaluated."""
        return metrics[f"eval/{self.sets[0].name}/wer"] if self.sets else None
