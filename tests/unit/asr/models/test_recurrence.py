"""The LSTM where the processor cannot make it in bf16: computed in fp32, given out as bf16, and left alone otherwise."""

import pytest
import torch
from torch import Tensor, nn

from asr.models import recurrence
from asr.models.recurrence import Lstm, bf16_lstm_works


@pytest.fixture
def lstm() -> Lstm:
    torch.manual_seed(0)
    return Lstm(3, 5, 2, batch_first=True)


@pytest.fixture
def unable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor whose bf16 LSTM fails."""
    monkeypatch.setattr(recurrence, "bf16_lstm_works", lambda: False)


def flat(found: tuple[Tensor, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    return found[0], *found[1]


@pytest.mark.usefixtures("unable")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bf16_outputs_are_those_of_the_fp32_lstm_rounded(lstm: Lstm, dtype: torch.dtype) -> None:
    x, states = torch.randn(2, 4, 3).to(dtype), (torch.randn(2, 2, 5).to(dtype), torch.randn(2, 2, 5).to(dtype))
    exact = flat(lstm(x.float(), (states[0].float(), states[1].float())))
    with torch.autocast("cpu", torch.bfloat16):
        found = flat(lstm(x, states))
    assert {each.dtype for each in found} == {torch.bfloat16}
    assert all(torch.equal(one, other.bfloat16()) for one, other in zip(found, exact, strict=True))
    found[0].sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in lstm.parameters())


@pytest.mark.usefixtures("unable")
def test_a_sequence_in_steps_is_the_sequence(lstm: Lstm) -> None:
    x, states, steps = torch.randn(2, 4, 3), None, []
    with torch.autocast("cpu", torch.bfloat16):
        whole, _ = lstm(x)
        for position in range(4):
            output, states = lstm(x[:, position : position + 1], states)
            steps.append(output)
    assert torch.allclose(torch.cat(steps, dim=1).float(), whole.float(), atol=0.01)


@pytest.mark.usefixtures("unable")
def test_nothing_else_is_touched(lstm: Lstm) -> None:
    """Neither fp32 without autocast nor fp64, which autocast leaves alone."""
    plain = nn.LSTM(3, 5, 2, batch_first=True)
    plain.load_state_dict(lstm.state_dict())
    x = torch.randn(2, 4, 3)
    assert torch.equal(lstm(x)[0], plain(x)[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lstm.double()(x.double())[0], plain.double()(x.double())[0])


def test_the_processor_decides() -> None:
    """As torch's own LSTM fares on this machine, with the numbers of anyone's generator untouched."""
    before = torch.get_rng_state()
    bf16_lstm_works.cache_clear()
    works = bf16_lstm_works()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.autocast("cpu", torch.bfloat16):
        if works:
            assert nn.LSTM(3, 5)(torch.randn(4, 2, 3))[0].dtype == torch.bfloat16
        else:
            with pytest.raises(RuntimeError):
                nn.LSTM(3, 5)(torch.randn(4, 2, 3))
