"""Features of a stream are those of the whole recording, whatever the sizes of its pieces."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.data.feature_stream import FeatureStream
from asr.data.features import LogMel
from asr.data.sherpa_features import SherpaLogMel
from distributed.errors import UsageError

SETTINGS: dict[str, Any] = {
    "sample_rate": 8000, "num_mels": 12, "frame_length_ms": 25.0, "frame_shift_ms": 10.0, "dither": 0.0,
    "normalise": "none", "deltas": 0, "stack": 1,
}  # fmt: skip


def noise(samples: int) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def streamed(features: LogMel, frames: int, pieces: Sequence[Tensor]) -> list[Tensor]:
    stream = FeatureStream(features, frames)
    blocks = [block for piece in pieces for block in stream.push(piece)] + list(stream.end())
    heard = [block.seconds for block in blocks]
    assert heard == sorted(heard)
    assert not heard or heard[-1] <= stream.seconds
    assert all(len(block.features_TD) == frames for block in blocks[:-1])
    return [block.features_TD for block in blocks]


@settings(max_examples=15)
@given(
    samples=st.integers(0, 3000),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5).filter(lambda sizes: max(sizes) > 50),
    kind=st.sampled_from([LogMel, SherpaLogMel]),
    deltas=st.sampled_from([0, 1, 2]),
    stack=st.sampled_from([1, 3]),
    shift=st.sampled_from([10.0, 12.5, 30.0]),
)
def test_a_stream_computes_what_the_whole_does(
    samples: int, sizes: list[int], kind: type[LogMel], deltas: int, stack: int, shift: float
) -> None:
    features = kind(**SETTINGS | {"deltas": deltas, "stack": stack, "frame_shift_ms": shift})
    waveform = noise(samples)
    whole = features.model_input(waveform)
    pieces, start = [], 0
    while start < samples:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(waveform[start : start + size])
        start += size
    blocks = streamed(features, 4, pieces)
    together = torch.cat(blocks) if blocks else whole[:0]
    torch.testing.assert_close(together, whole, rtol=0, atol=1e-3)
    at_once = streamed(features, 4, [waveform])
    assert all(map(torch.equal, blocks, at_once)), "to the last bit"
    assert len(blocks) == len(at_once)


def test_a_block_comes_with_its_last_sample_and_nothing_is_kept_longer_than_needed() -> None:
    features = LogMel(**SETTINGS)
    stream = FeatureStream(features, 4)
    needed = 3 * 80 + 200  # four frames
    assert not list(stream.push(noise(needed - 1)))
    (block,) = stream.push(noise(1))
    assert block.seconds == needed / 8000
    for _ in range(50):
        assert len(list(stream.push(noise(320)))) == 1
        assert stream._samples.untyped_storage().nbytes() <= 4 * 200
        assert stream._mel_TF.untyped_storage().nbytes() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalise": "utterance"}, r"^features\.normalise=utterance: .*; train with features\.normalise=none$"),
        ({"dither": 1.0}, r"^features\.dither=1: .*; train with features\.dither=0$"),
    ],
)
def test_what_needs_the_whole_recording_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FeatureStream(LogMel(**SETTINGS | changes), 4)
