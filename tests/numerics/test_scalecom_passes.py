"""How often ScaleCom goes over the gradient and the memory between backward and update, on a CPU."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distributed.backend import GradientReport
from distributed.learners.world import World
from tests.schemes import SCHEMES

BY_INDEX = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)  # of arguments: buffer, indices
OUTPUTS = 400
INPUTS = 600


class Touched(TorchDispatchMode):
    """Adds up how many elements of each of some buffers are read or written.

    Counted are, for every operation that is not a mere view, its operands that lie in a buffer: all their elements, or
    those named by an index. What is written over an operand that is read as well is one pass. Temporaries are no
    operands in a buffer; selection keeps them so small that they do not leave a core's cache.
    """

    def __init__(self, buffers: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {buffer.untyped_storage().data_ptr(): name for name, buffer in buffers.items()}
        self.elements = dict.fromkeys(buffers, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for operand in (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)):
                name = self.names.get(operand.untyped_storage().data_ptr())
                if name is not None:
                    self.elements[name] += args[1][0].numel() if func in BY_INDEX else operand.numel()
        return result


def test_a_step_takes_3_passes_over_the_gradient_and_2_over_the_memory(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the leader: selection, memory, new gradient; of norm and clipping, which all schemes have, nothing is counted."""
    backend = SCHEMES["scalecom"].build(alone, rate=100, beta=0.5, bucket_mb=1)
    model = nn.Linear(INPUTS, OUTPUTS)
    backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=1.0))
    monkeypatch.setattr("distributed.sparse.compressed.clip_gradients", lambda *_: GradientReport(1.0, False, True))
    backend.begin_step(1.0, 1.0)
    backend.flat.flat_grad[0].normal_(generator=torch.Generator().manual_seed(0))
    with Touched({"gradient": backend.flat.flat_grad[0], "memory": backend.memory[0]}) as touched:
        assert backend.reduce_gradients(None).finite
    entries = INPUTS * OUTPUTS + OUTPUTS
    chosen = INPUTS * OUTPUTS // 100 + OUTPUTS
    # Beside the passes, what is chosen is read to be sent, and written where all have agreed on it or remembered.
    assert 3 * entries <= touched.elements["gradient"] <= 3 * entries + 3 * chosen
    assert 2 * entries <= touched.elements["memory"] <= 2 * entries + 3 * chosen
