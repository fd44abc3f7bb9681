"""The searches that scripts/bench/decode.py compares, each from a unit's features to its labels: ours, and torchaudio's on the same model."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from asr.data.batch import Batch
from asr.data.tokenizer import Tokenizer
from asr.decoding.beam import BeamSearch
from asr.decoding.search import TokenModel
from asr.models.transducer import Transducer
from asr.parts import build
from asr.torchaudio_parts import torchaudio_part
from asr.training.measures import Decode
from scripts.composition.compose import compose
from scripts.composition.search import language_models

THEIRS = "torchaudio"

Recognise = Callable[[Batch], list[list[int]]]  # labels of each utterance


class TorchaudioTransducer(torch.nn.Module):
    """A transducer with the methods and the token numbers that RNNTBeamSearch wants: labels from 0 on, blank last."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.model = model

    def transcribe(self, features_1TF: Tensor, lengths_1: Tensor) -> tuple[Tensor, Tensor]:
        """Projected encoder states (1, T, J)."""
        states_1TD, lengths_1 = self.model.encode(features_1TF, lengths_1)
        return self.model.joiner.project_encoder(states_1TD), lengths_1

    def predict(
        self, tokens_K1: Tensor, lengths_K: Tensor, state: list[list[Tensor]] | None
    ) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Projected predictions (K, 1, J) and states after one token each."""
        predictor, joiner = self.model.predictor, self.model.joiner
        fresh = predictor.start(len(tokens_K1), tokens_K1.device, joiner.output.weight.dtype)
        ours_K = (tokens_K1[:, 0] + 1) % self.model.vocabulary_size
        output_KD, advanced = predictor.step(ours_K, fresh if state is None else tuple(state[0]))
        return joiner.project_predictor(output_KD[:, None]), lengths_K, [list(advanced)]

    def join(
        self, encoder_11J: Tensor, lengths_1: Tensor, predictor_K1J: Tensor, lengths_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (K, 1, 1, V)."""
        logits_K1V = self.model.joiner.logits(encoder_11J, predictor_K1J)
        return logits_K1V.roll(-1, dims=-1)[:, :, None], lengths_1, lengths_K


def methods(model: Transducer, beam: int) -> dict[str, Recognise]:
    """Every way of decoding that is compared, by name."""
    greedy: Decode = build(compose("evaluate", ["run=."]).decode)
    ours: Decode = build(compose("evaluate", ["run=.", "decode=beam", f"decode.beam={beam}"]).decode)
    blank = model.vocabulary_size - 1
    theirs = TorchaudioTransducer(model)
    search_class = torchaudio_part("models").RNNTBeamSearch
    by_score = search_class(theirs, blank, hypo_sort_key=lambda hypothesis: hypothesis[3])
    return {
        "greedy": batched(model, greedy),
        ours.name: batched(model, ours),
        f"{ours.name}, one at a time": one_by_one(batched(model, ours)),
        THEIRS: one_by_one(torchaudio_search(search_class(theirs, blank), beam)),
        f"{THEIRS}, by score": one_by_one(torchaudio_search(by_score, beam)),
    }


class Modules:
    """A language model of which a search knows nothing but its interface."""

    def __init__(self, model: TokenModel) -> None:
        self.start, self.step = model.start, model.step


def with_language_model(model: Transducer, tokenizer: Tokenizer, beam: int, folder: Path) -> dict[str, Recognise]:
    """Our beam search with a language model, in few operators and by its modules, by name.

    Raises:
        UsageError: the folder holds no run of a language model, or one of other tokens.
    """
    settings = ["run=.", "decode=beam", f"decode.beam={beam}", f"decode.fusion.external={folder.resolve()}"]
    ours: BeamSearch = build(compose("evaluate", settings).decode)
    external, _ = language_models(ours.fusion, model, tokenizer)
    assert external is not None, "it is named above"
    searches = (cast(Decode, ours.with_models(each, None)) for each in (external, Modules(external)))
    fused, as_it_is = (batched(model, search) for search in searches)
    return {
        ours.name: fused,
        f"{ours.name}, one at a time": one_by_one(fused),
        f"{ours.name}, by modules": as_it_is,
        f"{ours.name}, by modules, one at a time": one_by_one(as_it_is),
    }


def batched(model: Transducer, decode: Decode) -> Recognise:
    """A search of ours on a whole unit."""

    def recognise(batch: Batch) -> list[list[int]]:
        states_BTD, lengths_B = model.encode(batch.features, batch.feature_lengths)
        return [hypothesis.tokens for hypothesis in decode(model, states_BTD, lengths_B)]

    return recognise


def torchaudio_search(decode: torch.nn.Module, beam: int) -> Recognise:
    """torchaudio's search on a unit of one utterance."""

    def recognise(batch: Batch) -> list[list[int]]:
        best, *_ = decode(batch.features, batch.feature_lengths, beam)
        return [[token + 1 for token in best[0][1:]]]  # its hypotheses begin with blank

    return recognise


def one_by_one(recognise: Recognise) -> Recognise:
    """The utterances of a unit one after the other, without padding."""
    return lambda batch: [
        tokens for index in range(len(batch.utterance_ids)) for tokens in recognise(batch.part(index, index + 1))
    ]
