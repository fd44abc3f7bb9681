"""The DBLSTM acoustic model: sizes of the papers, segments, and a loss that is a sum over frames whatever the padding."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from asr.data.batch import IGNORED, Batch
from asr.models.acoustic import AcousticModel, segments

Build = Callable[..., AcousticModel]
MakeBatch = Callable[..., Batch]
FRAMES = [50, 42, 5]
SMALL = {"encoder.layers": 2, "encoder.hidden": 8, "bottleneck": 6}


@pytest.fixture
def model(build: Build) -> AcousticModel:
    return build("dblstm_4", feature_dimension=10, vocabulary_size=7, **SMALL).double()


@pytest.fixture
def batch(make_batch: MakeBatch) -> Batch:
    """Three utterances of 50, 42 (two whole segments) and 5 frames, a class for each frame."""
    made = make_batch(FRAMES, [1, 1, 1], 7, 10, torch.float64)
    targets_BT = torch.randint(0, 7, (3, 50), generator=torch.Generator().manual_seed(3))
    for row, frames in enumerate(FRAMES):
        targets_BT[row, frames:] = IGNORED
    return replace(made, frame_targets=targets_BT)


def alone(batch: Batch, row: int) -> Batch:
    """One utterance without padding."""
    frames = FRAMES[row]
    assert batch.frame_targets is not None
    return replace(
        batch,
        utterance_ids=[batch.utterance_ids[row]],
        features=batch.features[row : row + 1, :frames],
        feature_lengths=batch.feature_lengths[row : row + 1],
        frame_targets=batch.frame_targets[row : row + 1, :frames],
        weight=1.0,
    )


def count(build: Build, name: str, inputs: int) -> int:
    with torch.device("meta"):
        model = build(name, feature_dimension=inputs, vocabulary_size=29, num_targets=32000)
    return sum(parameter.numel() for parameter in model.parameters())


def test_six_layers_are_the_papers_43_million_and_165_megabytes(build: Build) -> None:
    """arXiv 2110.11199, section IV: input 260, 32,000 classes."""
    parameters = count(build, "dblstm_6", 260)
    assert parameters / 1e6 == pytest.approx(43, rel=0.005)
    assert 4 * parameters / 2**20 == pytest.approx(165, rel=0.005)


def test_four_layers_are_those_of_the_4_bit_paper(build: Build) -> None:
    """arXiv 2108.12074, section 4: input 140; counted by hand, two biases per gate as in torch."""
    first, others = (2 * (4 * 512 * (inputs + 512) + 2 * 4 * 512) for inputs in (140, 1024))
    assert count(build, "dblstm_4", 140) == first + 3 * others + (1024 + 1) * 256 + (256 + 1) * 32000


def test_classes_are_those_of_the_tokenizer_or_more(build: Build) -> None:
    assert build("dblstm_4", vocabulary_size=29, **SMALL).output.out_features == 29
    with pytest.raises(ValueError, match=r"model\.num_targets must be at least 29, .* got 28; null takes as many"):
        build("dblstm_4", vocabulary_size=29, num_targets=28, **SMALL)
    with pytest.raises(ValueError, match=r"got 1 state for 2 frames.*model\.encoder\.stack=1"):
        build("dblstm_4", **SMALL, **{"encoder.stack": 2})


def test_segments_cut_utterances_without_overlap() -> None:
    features = torch.arange(1.0, 11.0).reshape(2, 5, 1)
    cut, lengths = segments(features, torch.tensor([5, 1]), 2)
    assert cut.squeeze(-1).tolist() == [[1, 2], [3, 4], [5, 0], [6, 7], [8, 9], [10, 0]]
    assert lengths.tolist() == [2, 2, 1, 1, 1, 1]  # the last two are empty: one frame, which the model masks


@pytest.mark.parametrize("unroll_frames", [21, 1, 50, None])
def test_states_are_those_of_each_segment_alone(model: AcousticModel, batch: Batch, unroll_frames: int | None) -> None:
    model.unroll_frames = unroll_frames
    states = model.states(batch.features, batch.feature_lengths)
    for row, frames in enumerate(FRAMES):
        step = unroll_frames or frames
        pieces = [batch.features[row, begin : min(begin + step, frames)] for begin in range(0, frames, step)]
        expected = [model.encoder(piece[None], torch.tensor([len(piece)]))[0][0] for piece in pieces]
        torch.testing.assert_close(states[row, :frames], torch.cat(expected))
        assert not states[row, frames:].any()


def test_a_frame_knows_its_own_segment_alone(model: AcousticModel, batch: Batch) -> None:
    features = batch.features[:1].clone().requires_grad_()
    model.states(features, batch.feature_lengths[:1])[0, 30].sum().backward()
    assert features.grad is not None
    seen = features.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == list(range(21, 42))


@pytest.mark.parametrize("unroll_frames", [21, None])
def test_loss_and_gradient_are_the_sums_of_the_utterances(
    model: AcousticModel, batch: Batch, unroll_frames: int | None
) -> None:
    """Neither padding, garbage in it included, nor batch mates matter."""
    model.unroll_frames = unroll_frames
    dirty = batch.features.clone()
    for row, frames in enumerate(FRAMES):
        dirty[row, frames:] = torch.nan
    together = model(replace(batch, features=dirty))
    together.total.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    outputs = [model(alone(batch, row)) for row in range(3)]
    for output in outputs:
        output.total.backward()
    torch.testing.assert_close(together.total, sum(output.total for output in outputs), rtol=1e-12, atol=0)
    for name in ("frame_errors", "frames"):
        assert together.terms[name] == sum(output.terms[name] for output in outputs)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-12)
    assert together.terms["frames"] == sum(FRAMES)
    assert together.weight == 3.0


def test_the_loss_is_the_cross_entropy_of_the_frames(model: AcousticModel, batch: Batch) -> None:
    output, single = model(batch), alone(batch, 1)
    assert output.encoder_states is not None
    assert single.frame_targets is not None
    logits = model.logits(output.encoder_states[1, :42])
    expected = functional.cross_entropy(logits, single.frame_targets[0], reduction="sum")
    torch.testing.assert_close(model(single).total, expected)
    errors = (logits.argmax(-1) != single.frame_targets[0]).sum()
    assert model(single).terms["frame_errors"] == errors


def test_frames_without_a_target_and_emptied_units_cost_nothing(model: AcousticModel, batch: Batch) -> None:
    assert batch.frame_targets is not None
    unlabelled = replace(batch, frame_targets=torch.full_like(batch.frame_targets, IGNORED))
    empty = replace(batch, utterance_ids=[], features=batch.features[:0], weight=0.0)
    for each in (unlabelled, empty):
        model.zero_grad()
        output = model(each)
        output.total.backward()
        assert output.total.item() == 0
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_bf16_computes_the_loss_in_fp32(model: AcousticModel, batch: Batch) -> None:
    model, batch = model.float(), replace(batch, features=batch.features.float())
    expected = model(batch).total
    with torch.autocast("cpu", torch.bfloat16):
        total = model(batch).total
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=0.01)
