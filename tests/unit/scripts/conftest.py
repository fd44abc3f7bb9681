"""What tests of entry points share: torch's table of ONNX operators, which every export makes anew; made-up digits."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from scripts.bench.spoken_digits import Digits


@pytest.fixture(scope="session")
def one_registry() -> Iterator[None]:
    """The table is made once: reading the sources of its 500 functions takes a second, and an export writes three networks."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def digits() -> Digits:
    """Ten kinds of inputs around centres of their own, to train and to be tested on."""
    generator = torch.Generator().manual_seed(1)
    centres_KD = torch.randn(10, 8, generator=generator)
    labels = torch.arange(10).repeat(8)
    inputs = centres_KD[labels] + 0.3 * torch.randn(80, 8, generator=generator)
    return Digits((inputs, labels), (inputs, labels))
