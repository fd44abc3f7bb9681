"""Laws of the whole model in fp64: sums over utterances, derivatives, and the likelihood itself on a tiny case."""

import itertools
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from asr.data.batch import Batch
from asr.losses.rnnt import ExactLoss
from asr.models.conformer import Conformer
from asr.models.joiner import Joiner
from asr.models.lstm import BidirectionalLstm
from asr.models.predictor import LstmPredictor, StatelessPredictor
from asr.models.transducer import Transducer

FEATURES, VOCABULARY = 9, 5
VARIANTS = list(itertools.product(["conformer", "lstm"], ["lstm", "stateless"], ["add", "multiply"]))
every_variant = pytest.mark.parametrize(("encoder", "predictor", "combine"), VARIANTS)


def make(encoder: str, predictor: str, combine: Literal["add", "multiply"], ctc_weight: float = 0.4) -> Transducer:
    torch.manual_seed(0)
    encoder_part = (
        Conformer(
            feature_dimension=FEATURES,
            layers=2,
            dimension=8,
            heads=2,
            head_dimension=None,
            expansion=2,
            blocks=None,
            position_dimension=None,
            kernel=3,
            chunk=None,
            left_chunks=0,
            subsampling_channels=2,
            dropout=0.0,
        )
        if encoder == "conformer"
        else BidirectionalLstm(feature_dimension=FEATURES, stack=4, layers=2, hidden=4, dropout=0.0)
    )
    predictor_part = (
        LstmPredictor(
            vocabulary_size=VOCABULARY, embedding=3, dimension=6, layers=1, embedding_dropout=0.0, dropout=0.0
        )
        if predictor == "lstm"
        else StatelessPredictor(vocabulary_size=VOCABULARY, dimension=6, context=2, dropout=0.0)
    )
    joiner = Joiner(
        vocabulary_size=VOCABULARY, encoder_dimension=8, predictor_dimension=6, dimension=7, combine=combine
    )
    return Transducer(
        encoder=encoder_part,
        predictor=predictor_part,
        joiner=joiner,
        ctc_weight=ctc_weight,
        loss=ExactLoss(tile_cells=64, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="auto"),
        vocabulary_size=VOCABULARY,
    ).double()


def make_batch(frames: list[int], tokens: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(len(frames), max(frames), FEATURES, generator=generator, dtype=torch.float64)
    targets = torch.randint(1, VOCABULARY, (len(frames), max(tokens)), generator=generator)
    ids = [str(row) for row in range(len(frames))]
    return Batch(ids, features, torch.tensor(frames), targets, torch.tensor(tokens), targets, weight=float(len(frames)))


def rows(batch: Batch, chosen: list[int]) -> Batch:
    """The same utterances alone, their padding cut."""
    frames, tokens = batch.feature_lengths[chosen], batch.target_lengths[chosen]
    most = int(tokens.max())
    return replace(
        batch,
        utterance_ids=[batch.utterance_ids[row] for row in chosen],
        features=batch.features[chosen, : int(frames.max())],
        feature_lengths=frames,
        targets=batch.targets[chosen, :most],
        target_lengths=tokens,
        predictor_inputs=batch.predictor_inputs[chosen, :most],
        weight=float(len(chosen)),
    )


def gradient_of(model: Transducer, batch: Batch) -> tuple[Tensor, Tensor]:
    total = model(batch).total
    return total.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))])


@every_variant
def test_a_batch_is_the_sum_of_its_parts(encoder: str, predictor: str, combine: Literal["add", "multiply"]) -> None:
    model, batch = make(encoder, predictor, combine), make_batch([37, 5, 22, 14], [4, 1, 0, 3])
    total, gradient = gradient_of(model, batch)
    parts = [gradient_of(model, rows(batch, chosen)) for chosen in ([1, 2], [3], [0])]
    torch.testing.assert_close(sum(part[0] for part in parts), total, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sum(part[1] for part in parts), gradient, rtol=1e-10, atol=1e-10)


@every_variant
def test_directional_derivative(encoder: str, predictor: str, combine: Literal["add", "multiply"]) -> None:
    model, batch = make(encoder, predictor, combine), make_batch([21, 13], [3, 2])
    _, gradient = gradient_of(model, batch)
    parameters = list(model.parameters())
    start = torch.nn.utils.parameters_to_vector(parameters).detach()
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    step, totals = 1e-5, []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(start + sign * step * direction, parameters)
        with torch.no_grad():
            totals.append(model(batch).total)
    observed = (totals[0] - totals[1]) / (2 * step)
    torch.testing.assert_close(observed, gradient @ direction, rtol=1e-6, atol=1e-6)


@every_variant
def test_likelihood_is_the_sum_over_alignments(
    encoder: str, predictor: str, combine: Literal["add", "multiply"]
) -> None:
    """Every alignment of 2 tokens over 3 states, walked through the stepping interface that decoding uses."""
    model, batch = make(encoder, predictor, combine, ctc_weight=0.0).eval(), make_batch([11], [2])
    with torch.no_grad():
        states, lengths = model.encode(batch.features, batch.feature_lengths)
        projected = model.joiner.project_encoder(states)[0]
        assert lengths.item() == 3
        probability = 0.0
        for frames in itertools.combinations_with_replacement(range(3), 2):  # the state at which each token is emitted
            probability += walk(model, projected, batch.targets[0].tolist(), frames)
        expected = -torch.tensor(probability, dtype=torch.float64).log()
        torch.testing.assert_close(model(batch).total, expected, rtol=1e-10, atol=1e-10)


def walk(model: Transducer, projected_SJ: Tensor, tokens: list[int], frames: tuple[int, ...]) -> float:
    """Probability of emitting ``tokens`` at ``frames`` and a blank at the end of each frame."""
    predictor, joiner = model.predictor, model.joiner
    output, state = predictor.step(torch.tensor([0]), predictor.start(1, torch.device("cpu"), torch.float64))
    probability, emitted = 1.0, 0
    for frame, encoder_J in enumerate(projected_SJ):
        while emitted < len(tokens) and frames[emitted] == frame:
            scores = joiner.logits(encoder_J, joiner.project_predictor(output)).softmax(-1)
            probability *= scores[0, tokens[emitted]].item()
            output, state = predictor.step(torch.tensor([tokens[emitted]]), state)
            emitted += 1
        probability *= joiner.logits(encoder_J, joiner.project_predictor(output)).softmax(-1)[0, 0].item()
    return probability
