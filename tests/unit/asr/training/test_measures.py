"""What models are judged by: words or frames, summed over batches, and how the figures are shown."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from asr.data.batch import Batch
from asr.data.tokenizer import CharacterTokenizer
from asr.decoding.ctc import CtcGreedy
from asr.decoding.search import Hypothesis, SearchError
from asr.models.speech_model import LossOutput, SpeechModel
from asr.parts import build
from asr.runs.console import evaluation_line
from asr.training.measures import FrameErrors, WordErrors, measure_of
from scripts.composition.compose import compose

TOKENIZER = CharacterTokenizer(alphabet=" abc", case="lower")


class Says:
    """A search that finds the same text everywhere."""

    name = "says"

    def __init__(self, text: str) -> None:
        self.tokens = TOKENIZER.encode(text)

    def check(self, model: SpeechModel) -> None:
        """It suits every model."""

    def __call__(self, model: SpeechModel, encoder_states: torch.Tensor, lengths: torch.Tensor) -> list[Hypothesis]:
        return [Hypothesis(self.tokens, 0.0, []) for _ in lengths]


@pytest.fixture
def make_model() -> Callable[..., SpeechModel]:
    def make(name: str, *overrides: str) -> SpeechModel:
        small = ["model.encoder.layers=1", "model.encoder.hidden=4"]
        config: DictConfig = compose("train", [f"model={name}", *small, *overrides])
        model: SpeechModel = build(config.model, vocabulary_size=5, feature_dimension=3)
        return model

    return make


def spoken(*texts: str) -> Batch:
    rows = [torch.tensor(TOKENIZER.encode(text)) for text in texts]
    targets = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    frames = torch.full((len(texts),), 8)
    ids = [f"u{index}" for index in range(len(texts))]
    return Batch(ids, torch.zeros(len(texts), 8, 3), frames, targets, lengths, targets, weight=float(len(texts)))


@pytest.mark.parametrize(
    ("name", "figure"), [("lstm_tiny", "wer"), ("ctc_ibm_lstm", "wer"), ("dblstm_4", "frame_error")]
)
def test_models_are_judged_by_what_they_do(make_model: Callable[..., SpeechModel], name: str, figure: str) -> None:
    assert measure_of(make_model(name), Says("a"), TOKENIZER).name == figure


def test_a_search_that_does_not_suit_the_model_is_refused_before_training(
    make_model: Callable[..., SpeechModel],
) -> None:
    """Rather than by the first evaluation; an acoustic model is not searched."""
    assert measure_of(make_model("lstm_tiny"), CtcGreedy(), TOKENIZER).name == "wer"
    assert measure_of(make_model("dblstm_4"), CtcGreedy(), TOKENIZER).name == "frame_error"
    with pytest.raises(SearchError, match="needs a model with a CTC head"):
        measure_of(make_model("lstm_tiny", "model.ctc_weight=0"), CtcGreedy(), TOKENIZER)


def test_words_are_counted(make_model: Callable[..., SpeechModel]) -> None:
    model, batch = make_model("lstm_tiny"), spoken("a b", "c", "a b c")
    output = LossOutput(torch.zeros(()), 3.0, encoder_states=torch.zeros(3, 2, 8))
    assert WordErrors(Says("a b"), TOKENIZER).count(model, batch, output) == (3, 6)
    emptied = Batch(
        [],
        batch.features[:0],
        batch.feature_lengths[:0],
        batch.targets[:0],
        batch.target_lengths[:0],
        batch.targets[:0],
        0.0,
    )
    assert WordErrors(Says("a b"), TOKENIZER).count(model, emptied, LossOutput(torch.zeros(()), 0.0)) == (0, 0)


def test_frames_are_counted(make_model: Callable[..., SpeechModel]) -> None:
    terms = {"frame_errors": torch.tensor(3.0), "frames": torch.tensor(8.0)}
    output = LossOutput(torch.zeros(()), 3.0, terms, torch.zeros(3, 2, 8))
    assert FrameErrors().count(make_model("dblstm_4"), spoken("a"), output) == (3.0, 8.0)
    assert FrameErrors().count(make_model("dblstm_4"), spoken("a"), LossOutput(torch.zeros(()), 0.0)) == (0.0, 0.0)


def test_the_console_names_the_figure() -> None:
    row = {"eval/dev/loss": 3.0, "eval/dev/frame_error": 0.25}
    assert evaluation_line(row, "5/9") == "evaluation at step 5/9  dev: loss 3.00  frame error 25.00 %"
