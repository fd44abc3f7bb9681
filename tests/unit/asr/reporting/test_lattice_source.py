"""Lattices of a model: those of its loss, whatever else is in the batch."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.data.tokenizer import CharacterTokenizer
from asr.losses.rnnt import ExactLoss
from asr.models.encoder import Encoder
from asr.models.joiner import Joiner
from asr.models.predictor import LstmPredictor
from asr.models.transducer import Transducer
from asr.reporting.lattice import lattice_figure
from asr.reporting.lattice_source import lattice_pictures

FEATURES = 5


class EveryOther(Encoder):
    """A linear layer over every other frame, with dropout to show the mode."""

    dimension = 8
    subsampling = 2

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(FEATURES, 8), nn.Dropout(0.5)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.dropout(self.linear(features_BTF[:, ::2])), self.state_lengths(lengths_B)


@pytest.fixture
def tokenizer() -> CharacterTokenizer:
    return CharacterTokenizer(alphabet=" abc", case="lower")


@pytest.fixture
def model(tokenizer: CharacterTokenizer) -> Transducer:
    torch.manual_seed(0)
    size = tokenizer.vocabulary_size
    predictor = LstmPredictor(
        vocabulary_size=size, embedding=4, dimension=6, layers=1, embedding_dropout=0.0, dropout=0.5
    )
    joiner = Joiner(vocabulary_size=size, encoder_dimension=8, predictor_dimension=6, dimension=7, combine="add")
    return Transducer(
        encoder=EveryOther(),
        predictor=predictor,
        joiner=joiner,
        ctc_weight=0.0,
        loss=ExactLoss(tile_cells=64, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="auto"),
        vocabulary_size=size,
    )


def batch_of(tokenizer: CharacterTokenizer, texts: list[str], frames: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    targets = [torch.tensor(tokenizer.encode(text), dtype=torch.int64) for text in texts]
    padded = nn.utils.rnn.pad_sequence(targets, batch_first=True)
    return Batch(
        utterance_ids=[f"u{index}" for index in range(len(texts))],
        features=torch.randn(len(texts), max(frames), FEATURES, generator=generator),
        feature_lengths=torch.tensor(frames),
        targets=padded,
        target_lengths=torch.tensor([len(target) for target in targets]),
        predictor_inputs=torch.zeros_like(padded),  # what a hook may have made of them: not what the lattice is of
        weight=float(len(texts)),
    )


def test_pictures_show_the_lattice_of_the_loss(model: Transducer, tokenizer: CharacterTokenizer) -> None:
    batch = batch_of(tokenizer, ["ab ca", "b", "cc"], [20, 11, 15])
    pictures = lattice_pictures(model, batch, tokenizer, ["x", "y", "z"], limit=2, feature_frame_seconds=0.01)
    first, second = pictures
    assert first.utterance_id == "u0"
    assert (first.reference, first.hypothesis) == ("ab ca", "x")
    assert list(first.tokens) == ["a", "b", "▁", "c", "a"]
    assert first.frame_seconds == pytest.approx(0.02)
    assert np.asarray(first.occupancy_TS).shape == (10, 6)
    assert np.asarray(second.occupancy_TS).shape == (6, 2)
    for picture in pictures:
        occupancy_TS = np.asarray(picture.occupancy_TS)
        frames, states = occupancy_TS.shape
        diagonals = [np.trace(occupancy_TS[:, ::-1], offset=states - 1 - d) for d in range(frames + states - 1)]
        np.testing.assert_allclose(diagonals, 1.0, rtol=1e-5)  # each alignment crosses each diagonal once
        assert lattice_figure(picture, "x")


def test_dropout_is_off_and_the_mode_is_left_as_it_was(model: Transducer, tokenizer: CharacterTokenizer) -> None:
    batch = batch_of(tokenizer, ["ab"], [12])
    for training in (True, False):
        model.train(training)
        once, again = (
            lattice_pictures(model, batch, tokenizer, ["x"], limit=1, feature_frame_seconds=0.01)[0] for _ in range(2)
        )
        np.testing.assert_array_equal(once.occupancy_TS, again.occupancy_TS)
        assert model.training is training


def test_no_picture_of_an_empty_batch_and_a_hypothesis_for_each(model, tokenizer) -> None:
    batch = batch_of(tokenizer, ["ab"], [12])
    assert lattice_pictures(model, batch, tokenizer, ["x"], limit=0, feature_frame_seconds=0.01) == []
    with pytest.raises(ValueError, match="hypotheses must be 1, one per utterance, got 2"):
        lattice_pictures(model, batch, tokenizer, ["x", "y"], limit=1, feature_frame_seconds=0.01)
