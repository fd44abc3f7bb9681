"""The scores of n-best lists beside log p(y|x), from the exact loss over the whole lattice of each hypothesis."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from asr.data.batch import Unit
from asr.data.cache import SignalCache
from asr.data.nbest import shard_file
from asr.decoding.fusion import text_scores
from asr.models.transducer import Transducer
from asr.runs.language_model import load_token_model
from scripts.composition.trained import Trained, load_trained
from scripts.make_nbest import main as make_nbest

CPU = torch.device("cpu")
WEIGHT = 0.7  # of the language model

Run = Callable[..., Path]
Texts = Sequence[Sequence[int]]


@pytest.fixture
def trained(random_run: Run) -> Trained:
    """A run with random weights, in fp64."""
    return load_trained(random_run("run", "trainer.precision=fp64"), "best", threads=1)


def log_likelihoods(trained: Trained, utterance: int, texts: Texts) -> Tensor:
    """log p(y|x) (N,) of token sequences given an utterance of dev, each from a lattice of its own."""
    dataset = trained.speech.dataset(trained.speech.split("dev"), [], 1, SignalCache(limit_gb=0))
    batch = trained.inference().moved_to_model(dataset[Unit(0, 0, 0, (utterance,))])
    model = cast(Transducer, trained.model)
    states_1SD, lengths_1 = model.encode(batch.features, batch.feature_lengths)
    losses = []
    for text in texts:
        tokens_1U, length_1 = torch.tensor([text], dtype=torch.int64), torch.tensor([len(text)])
        said = replace(batch, targets=tokens_1U, predictor_inputs=tokens_1U, target_lengths=length_1)
        losses.append(model.loss(model.loss_inputs(states_1SD, lengths_1, said)))
    return -torch.cat(losses)


def found(trained: Trained, out: Path, *overrides: str) -> list[tuple[Texts, Tensor]]:
    """Hypotheses and scores (N,) of every utterance of dev, in the manifest's order."""
    few = ("split=dev", "unit_utterances=4", "hypotheses=20", f"out={out}")
    make_nbest([f"run={trained.folder}", *few, *overrides])
    rows = {row["id"]: row for row in map(json.loads, shard_file(out, 0).read_text().splitlines())}
    ordered = [rows[each.id] for each in trained.speech.split("dev").utterances]
    return [(row["hypotheses"], torch.tensor(row["scores"], dtype=torch.float64)) for row in ordered]


@torch.no_grad()
def test_a_narrow_beam_misses_alignments(trained: Trained, tmp_path: Path) -> None:
    lists = found(trained, tmp_path, "decode.beam=2")
    gaps_N = torch.cat([log_likelihoods(trained, u, texts) - scores_N for u, (texts, scores_N) in enumerate(lists)])
    assert len(gaps_N) >= len(lists) * 2
    assert gaps_N.min() > 0.1


@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_a_beam_with_room_for_every_text_misses_none(
    trained: Trained, random_lm_run: Run, tmp_path: Path, fused: bool
) -> None:
    tokenizer, lm = trained.speech.tokenizer, random_lm_run("lm")
    fusion = (f"decode.fusion.external={lm}", f"decode.fusion.external_weight={WEIGHT}") if fused else ()
    labels = tokenizer.vocabulary_size - 1
    every = f"decode.beam={1 + labels + labels**2}"  # texts of at most two tokens
    lists = found(trained, tmp_path, "decode.max_labels_per_frame=0.17", every, *fusion)
    assert max(len(text) for texts, _ in lists for text in texts) == 2
    model = load_token_model(lm, CPU, tokenizer).double()
    for utterance, (texts, scores_N) in enumerate(lists):
        exact_N = log_likelihoods(trained, utterance, texts)
        if fused:
            exact_N += WEIGHT * text_scores(model, texts, end_of_text=False, device=CPU, dtype=torch.float64)
        assert len(texts) == 20
        assert scores_N.tolist() == pytest.approx(exact_N.tolist(), rel=1e-9)
