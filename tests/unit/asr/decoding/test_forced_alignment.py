"""Forced alignment: the best of all alignments, whatever the batch; and a frame-level form that keeps every token."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from asr.data.batch import Batch
from asr.decoding import forced_alignment
from asr.decoding.forced_alignment import align_batch, chosen_method, ctc_path, emission_path, word_spans
from asr.losses.alignment import Emission, lattice_arcs
from asr.models.speech_model import Recogniser
from asr.parts import build
from scripts.composition.compose import compose

VOCABULARY = 6


@pytest.fixture
def model() -> Callable[..., Recogniser]:
    def make(name: str, **changes: Any) -> Recogniser:
        overrides = [f"model={name}", "model.encoder.layers=1", "model.encoder.hidden=8"]
        config: DictConfig = compose("train", overrides + [f"model.{key}={value}" for key, value in changes.items()])
        torch.manual_seed(0)
        made: Recogniser = build(config.model, vocabulary_size=VOCABULARY, feature_dimension=5)
        return made.eval()

    return make


def batch(frames: list[int], tokens: list[list[int]]) -> Batch:
    features = torch.randn(len(frames), max(frames), 5, generator=torch.Generator().manual_seed(1))
    targets = torch.zeros(len(frames), max(map(len, tokens)), dtype=torch.int64)
    for row, own in enumerate(tokens):
        targets[row, : len(own)] = torch.tensor(own)
    lengths = torch.tensor([len(own) for own in tokens])
    ids = [f"u{row}" for row in range(len(frames))]
    return Batch(ids, features, torch.tensor(frames), targets, lengths, targets, weight=float(len(frames)))


def collapsed(path: list[int]) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token]


@pytest.mark.parametrize("tokens", [[1, 2], [1, 1], [3], []])
def test_the_ctc_path_is_the_best_of_all_that_write_the_text(tokens: list[int]) -> None:
    log_probs_SV = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    path = ctc_path(log_probs_SV, torch.tensor(tokens, dtype=torch.int64)).tolist()
    candidates = [each for each in itertools.product(range(4), repeat=5) if collapsed(list(each)) == tokens]
    assert path == list(max(candidates, key=lambda each: sum(log_probs_SV[s, v].item() for s, v in enumerate(each))))


@pytest.mark.parametrize(
    ("name", "changes", "method"),
    [
        ("ctc_ibm_lstm", {}, "auto"),
        ("lstm_tiny", {}, "auto"),
        ("lstm_tiny", {}, "transducer"),
        ("lstm_tiny", {"ctc_weight": 0.0}, "auto"),
    ],
)
def test_every_state_gets_a_class_and_batch_mates_do_not_matter(
    model: Callable[..., Recogniser], name: str, changes: dict[str, Any], method: Any
) -> None:
    aligner, texts = model(name, **changes), [[1, 2, 2], [], [4, 5]]
    frames = [40, 12, 23]
    together = align_batch(aligner, batch(frames, texts), method)
    for row, path in enumerate(together):
        assert path is not None
        assert len(path) == -(-frames[row] // aligner.subsampling)
        written = collapsed(path.tolist()) if chosen_method(aligner, method) == "ctc" else path[path > 0].tolist()
        assert written == texts[row]
    whole = batch(frames, texts)
    whole.features, whole.feature_lengths = whole.features[:1], whole.feature_lengths[:1]
    whole.targets, whole.target_lengths, whole.utterance_ids = whole.targets[:1], whole.target_lengths[:1], ["u0"]
    alone = align_batch(aligner, whole, method)[0]
    assert alone is not None
    assert together[0] is not None
    assert torch.equal(alone, together[0])


@pytest.mark.parametrize("method", ["ctc", "transducer"])
def test_a_text_with_too_many_tokens_is_left_out(model: Callable[..., Recogniser], method: Any) -> None:
    paths = align_batch(model("lstm_tiny"), batch([8, 40], [[1, 2, 3], [1]]), method)
    assert paths[0] is None
    assert paths[1] is not None


def test_parts_within_a_budget_are_aligned_as_all_together(
    model: Callable[..., Recogniser], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lattice of a text that needs too many states is never built, and no part is larger than the budget."""
    aligner, built = model("lstm_tiny"), []

    def watched(inputs: Any) -> Any:
        arcs = lattice_arcs(inputs)
        built.append(arcs.shape.cells)
        return arcs

    monkeypatch.setattr(forced_alignment, "lattice_arcs", watched)
    texts = [[1, 2], [3] * 50, [], [4, 5, 1], [2, 2], [1]]
    given = batch([40, 60, 12, 23, 80, 36], texts)
    together = align_batch(aligner, given, "transducer")
    assert [len(each) for each in built] == [5]
    assert max(map(max, built)) < 60 * 50 // aligner.subsampling, "not that of the second text"
    built.clear()
    monkeypatch.setattr(forced_alignment, "CELLS_TOGETHER", 60)
    apart = align_batch(aligner, given, "transducer")
    assert len(built) > 1
    assert all(len(each) == 1 or len(each) * max(each) <= 60 for each in built)
    assert sum(map(len, built)) == 5
    for one, other, text in zip(together, apart, texts, strict=True):
        assert (one is None) == (other is None) == (len(text) == 50)
        assert one is None or torch.equal(one, other)


def test_what_a_model_cannot_do_is_refused(model: Callable[..., Recogniser]) -> None:
    with pytest.raises(ValueError, match=r"method=transducer needs a transducer.*method=ctc"):
        chosen_method(model("ctc_ibm_lstm"), "transducer")
    with pytest.raises(ValueError, match=r"method=ctc needs a model with a CTC head.*method=transducer"):
        chosen_method(model("lstm_tiny", ctc_weight=0.0), "ctc")


@given(st.data())
def test_every_emission_keeps_a_state_of_its_own(data: st.DataObject) -> None:
    states = data.draw(st.integers(1, 12))
    frames = sorted(data.draw(st.lists(st.integers(0, states - 1), max_size=states)))
    tokens = torch.arange(1, 1 + len(frames))
    path = [Emission(frame, label) for label, frame in enumerate(frames)]
    classes = emission_path(path, tokens, states)
    assert classes is not None
    assert classes[classes > 0].tolist() == tokens.tolist(), "all tokens, in order"
    if len(set(frames)) == len(frames):
        assert classes.nonzero().flatten().tolist() == frames, "where there is no conflict nothing moves"


def test_more_tokens_than_states_have_no_frame_level_form() -> None:
    assert emission_path([Emission(0, 0), Emission(0, 1)], torch.tensor([1, 2]), 1) is None


PIECES = ["<blank>", "▁the", "▁a", "s", "▁"]
CHARACTERS = ["<blank>", "▁", "a", "b"]


@pytest.mark.parametrize(
    ("symbols", "tokens", "path", "expected"),
    [
        (PIECES, [1, 3, 2], [0, 1, 1, 0, 3, 0, 2], [(1, 4), (6, 6)]),
        (PIECES, [1, 1], [1, 1, 0, 1], [(0, 1), (3, 3)]),
        (PIECES, [1, 1], [0, 1, 1, 0], [(1, 1), (2, 2)]),  # a transducer's, in which a token has one state
        (PIECES, [4, 3, 1], [4, 0, 3, 0, 1], [(2, 2), (4, 4)]),  # a space of its own is no sound
        (CHARACTERS, [2, 3, 1, 2], [2, 3, 0, 1, 1, 0, 2], [(0, 1), (6, 6)]),
        (CHARACTERS, [], [0, 0], []),
    ],
)
def test_words_last_from_their_first_token_to_their_last(
    symbols: list[str], tokens: list[int], path: list[int], expected: list[tuple[int, int]]
) -> None:
    assert word_spans(torch.tensor(path), tokens, symbols) == expected


def test_a_path_of_another_text_has_no_words() -> None:
    with pytest.raises(ValueError, match=r"the alignment has tokens \[1, 2\], the text \[1, 3\]"):
        word_spans(torch.tensor([1, 0, 2]), [1, 3], PIECES)
