"""Rates of parameters: defaults, patterns, refusals; and the flat stretches that they make."""

import logging

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from distributed.learners.world import World
from distributed.parameters.flat_parameters import FlatParameters
from distributed.sparse.rates import rates_of
from distributed.sparse.segments import EVERYTHING, Offsets, Segment, entries, gathered, segments_of
from tests.schemes import SCHEMES


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3), nn.LayerNorm(3), nn.Linear(3, 5), nn.LSTM(5, 4))


def test_biases_norms_and_first_convolution_are_dense_by_default():
    rates = rates_of(network(), 100, [])
    dense = {name for name, rate in rates.items() if rate == 1}
    assert dense == {*("0.weight", "0.bias", "1.bias", "2.weight", "2.bias", "3.bias", "4.bias_ih_l0", "4.bias_hh_l0")}
    assert {rate for name, rate in rates.items() if name not in dense} == {100}


@pytest.mark.parametrize("parametrised", [orthogonal, weight_norm])
def test_a_first_convolution_whose_weight_is_parametrised_is_dense(parametrised):
    model = network()
    parametrised(model[0])
    parametrised(model[1])
    rates = rates_of(model, 100, [])
    first, second = ({name for name in rates if name.startswith(f"{place}.parametrizations")} for place in (0, 1))
    assert first
    assert {rates[name] for name in first} == {1}
    assert 100 in {rates[name] for name in second}


def test_the_first_pattern_that_matches_decides():
    rates = rates_of(network(), 100, [("4.weight_hh*", 5), ("4.*", 20), ("0.weight", 30)])
    assert rates["4.weight_hh_l0"] == 5
    assert rates["4.weight_ih_l0"] == rates["4.bias_ih_l0"] == 20
    assert rates["0.weight"] == 30
    assert rates["3.weight"] == 100


def test_a_parameter_that_a_hook_keeps_out_is_dense_whatever_patterns_say():
    model = network()
    rates = rates_of(model, 100, [("3.weight", 50)], uncompressed=[model[3].weight])
    assert rates["3.weight"] == 1
    assert rates["1.weight"] == 100


def test_a_pattern_may_mean_any_name_of_a_tied_parameter():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert rates_of(model, 100, [("1.weight", 7)])["0.weight"] == 7
    assert rates_of(model, 100, [("0.*", 5), ("1.*", 7)]) == {"0.weight": 5, "0.bias": 5, "1.bias": 7}
    assert rates_of(model, 100, [("1.*", 7), ("0.*", 5)]) == {"0.weight": 7, "0.bias": 5, "1.bias": 7}


AUTO = {"rate": "auto", "rates": [("2.*", 7)]}


@pytest.mark.parametrize("word", ["scalecom", "local_topk", "random_k"])
def test_under_auto_rates_follow_the_uses_that_learner_0_counts(run_learners, caplog, word: str):
    """A pattern still wins, biases stay dense; how long the sample is that other learners see does not matter."""
    caplog.set_level(logging.INFO)

    def learner(world: World) -> list[Segment]:
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))

        def forward() -> None:
            model[1:](model[0](torch.zeros(10 if world.rank else 200, 4))[: 10 if world.rank else 128])

        backend = SCHEMES[word].build(world, **AUTO)
        backend.examine(model, forward)
        backend.attach(torch.optim.SGD(backend.wrap(model).parameters(), lr=1.0))
        assert backend.rates_found == {
            **{"0.weight": 25, "1.weight": 50, "2.weight": 7, "2.bias": 7},
            **{"0.bias": 1, "1.bias": 1},
        }
        return backend.segments

    one, other = run_learners(2, learner)
    assert one == other
    assert (
        "gradient entries sent: all of 2 parameters (8 entries), 1 in 7 of 2 parameters (20 entries), "
        "1 in 25 of 1 parameters (16 entries), 1 in 50 of 1 parameters (16 entries)"
    ) in caplog.messages


def test_a_set_rate_counts_nothing_and_auto_needs_counting(alone: World):
    SCHEMES["scalecom"].build(alone, **AUTO | {"rate": 4}).examine(
        network(), lambda: pytest.fail("nobody asked for it")
    )
    with pytest.raises(RuntimeError, match=r"rate=auto, backend\.examine"):
        SCHEMES["scalecom"].build(alone, **AUTO).wrap(network())


@pytest.mark.parametrize(
    ("patterns", "words"),
    [([("encoder.*", 5)], r"backend\.rates: 'encoder\.\*' matches no parameter"), ([("0.*", 0)], r"has rate 0; .* 1")],
)
def test_patterns_that_cannot_be_meant_are_refused(patterns: list[tuple[str, int]], words: str):
    with pytest.raises(ValueError, match=words):
        rates_of(network(), 100, patterns)


def test_parameters_of_a_rate_are_adjacent_and_segments_cover_all_once():
    model = network().append(nn.Linear(2, 2).double())
    rates = rates_of(model, 100, [("3.weight", 7)])
    flat = FlatParameters(model, gradients=True, order=lambda name, _: (rates[name],))
    segments = segments_of(flat, rates, {})
    assert [(segment.buffer, segment.rate) for segment in segments] == [(0, 1), (0, 7), (0, 100), (1, 1), (1, 100)]
    counts = [torch.zeros_like(buffer, dtype=torch.int64) for buffer in flat.flat]
    for segment in segments:
        segment.of(counts).add_(1)
    assert all((count == 1).all() for count in counts)
    for name, view in flat.named_views(flat.flat).items():
        view.data.fill_(rates[name])
    for segment in segments:
        assert set(segment.of(flat.flat).tolist()) <= {0.0, float(segment.rate)}  # 0: what lies between parameters


def test_offsets_of_several_rates_travel_in_one_message():
    segments = [Segment(0, 0, 5, 1), Segment(0, 5, 30, 10), Segment(0, 35, 70_001, 70_000), Segment(1, 0, 900, 300)]
    buffers = [torch.arange(70_036.0), torch.arange(900.0).double()]
    offsets = Offsets(segments, torch.device("cpu"))
    offsets.write([torch.tensor([9, 0, 3]), torch.tensor([69_999, 0]), torch.tensor([299, 0, 256])])
    assert offsets.message.nbytes == 4 + 8 + 8  # 3 and 6 bytes are filled up
    indices = offsets.indices(offsets.message.clone())
    assert indices[0] == EVERYTHING
    values = gathered(segments, buffers, indices)
    assert values.dtype == torch.float64
    assert values[5:].tolist() == [14, 15, 28, 70_034, 70_035, 299, 300, 856]
    for segment, index, part in entries(segments, indices, values):
        assert torch.equal(segment.of(buffers)[index].double(), part)
