"""What tests of benchmarks share: made-up digits."""

import pytest
import torch

from scripts.bench.spoken_digits import Digits


@pytest.fixture
def digits() -> Digits:
    """Ten kinds of inputs around centres of their own, to train and to be tested on."""
    generator = torch.Generator().manual_seed(1)
    centres_KD = torch.randn(10, 8, generator=generator)
    labels = torch.arange(10).repeat(8)
    inputs = centres_KD[labels] + 0.3 * torch.randn(80, 8, generator=generator)
    return Digits((inputs, labels), (inputs, labels))
