"""What tests of entry points share: torch's table of ONNX operators, which every export makes anew."""

from collections.abc import Iterator
from functools import cache

import pytest


@pytest.fixture(scope="session")
def one_registry() -> Iterator[None]:
    """The table is made once: reading the sources of its 500 functions takes a second, and an export writes three networks."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield
