"""The front end in the exported graph: what LogMel computes for each utterance alone, whatever the padding holds."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from asr.data.features import LogMel
from asr.export.front_end import FrontEnd
from asr.models.encoder import padding_mask


@pytest.mark.parametrize(
    ("normalise", "deltas", "stack"), [("utterance", 0, 1), ("utterance", 2, 3), ("none", 1, 2), ("none", 0, 1)]
)
def test_a_padded_batch_is_each_utterance_alone(normalise: str, deltas: int, stack: int) -> None:
    features = LogMel(
        sample_rate=8000, num_mels=6, frame_length_ms=25.0, frame_shift_ms=10.0, dither=0.0,
        normalise=normalise, deltas=deltas, stack=stack,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    alone = [3 * torch.randn(frames, 6, generator=generator) - 5 for frames in (17, 1, 4, 9)]
    lengths = torch.tensor([len(each) for each in alone])
    mel_BTF = pad_sequence(alone, batch_first=True, padding_value=-23.03)  # as sherpa-onnx pads
    x_BSD, lengths_B = FrontEnd(features)(mel_BTF, lengths)
    for row, each in enumerate(alone):
        expected = features.in_context(features.normalise(each))
        assert lengths_B[row] == len(expected)
        torch.testing.assert_close(x_BSD[row, : len(expected)], expected, rtol=1e-5, atol=2e-5)
    if stack > 1:
        assert not x_BSD[padding_mask(lengths_B, x_BSD.shape[1])].any()


def test_a_constant_bin_becomes_zero() -> None:
    features = LogMel(
        sample_rate=8000, num_mels=4, frame_length_ms=25.0, frame_shift_ms=10.0, dither=0.0,
        normalise="utterance", deltas=0, stack=1,
    )  # fmt: skip
    x_BSD, _ = FrontEnd(features)(torch.full((1, 50, 4), -15.94), torch.tensor([50]))
    assert x_BSD.abs().max() < 1e-2
