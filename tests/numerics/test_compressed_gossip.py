"""Laws of compressed gossip: the mean is conserved, learners come together, memories stay bounded, bytes are as computed."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distributed.gossip.codes import Code, code_of
from distributed.gossip.compressed_rounds import CompressedRounds
from distributed.gossip.finite import NonFiniteWeightsError
from distributed.gossip.lockstep import LockstepMixing
from distributed.gossip.replicas import Edge, consensus_difference
from distributed.gossip.topology import TopologyName, make_topology
from distributed.learners.world import World
from tests.schemes import SCHEMES

CODES = ("bf16", "int8", "int4", "topk")
TOPOLOGIES: tuple[TopologyName, ...] = ("ring", "random_ring", "random_pairwise", "exponential", "complete")
ELEMENTS = 600


def starts(learners: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Different weights for every learner, shape (learners, ELEMENTS)."""
    return torch.randn(learners, ELEMENTS, generator=torch.Generator().manual_seed(learners), dtype=dtype)


def apart(weights: Tensor) -> float:
    """Distance between learners, of weights (learners, ELEMENTS)."""
    return (weights - weights.mean(0)).norm().item()


def code(name: str, rate: int = 8) -> Code:
    """A compression that is none's."""
    found = code_of(name, rate)
    assert found is not None
    return found


class Together:
    """Learners without a network: each one's rounds, with messages handed over."""

    def __init__(self, weights: Tensor, topology: TopologyName, name: str, gamma: float | None = None) -> None:
        self.weights = weights.clone()
        self.topology = make_topology(topology, seed=1)
        self.learners = [CompressedRounds(code(name), gamma, i, self.topology.fixed) for i in range(len(weights))]
        self.round = 0
        self.sent_bytes = [0] * len(weights)  # of the newest round

    def mix(self) -> None:
        """One round of all learners."""
        size, begun = len(self.learners), []
        for rank, learner in enumerate(self.learners):
            row, column = self.topology.row(rank, size, self.round), self.topology.column(rank, size, self.round)
            row.pop(rank)
            column.pop(rank)
            begun.append(learner.begin([self.weights[rank].clone()], row, column))
            self.sent_bytes[rank] = sum(part.nbytes for message in begun[-1][0].values() for part in message)
        for rank, (learner, (_, layouts)) in enumerate(zip(self.learners, begun, strict=True)):
            received = {sender: begun[sender][0][rank] for sender in layouts}
            for sender, layout in layouts.items():
                assert [(part.shape, part.dtype) for part in layout] == [(p.shape, p.dtype) for p in received[sender]]
            difference = learner.difference(received)
            if difference is not None:
                self.weights[rank] += difference[0]
        self.round += 1


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize(("learners", "topology"), [(2, "ring"), *((4, topology) for topology in TOPOLOGIES)])
def test_the_mean_is_conserved_and_learners_come_together(learners: int, topology: TopologyName, name: str):
    first = starts(learners)
    together = Together(first, topology, name)
    for _ in range(80 if name == "topk" else 12):
        together.mix()
    torch.testing.assert_close(together.weights.mean(0), first.mean(0), rtol=0, atol=1e-13)
    assert apart(together.weights) < (0.1 if name == "topk" else 0.05) * apart(first)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_learners_that_agree_stay_bitwise_where_they_are(topology: TopologyName):
    first = starts(1, torch.float32).expand(4, -1)
    together = Together(first, topology, "topk")
    for _ in range(5):
        together.mix()
    assert torch.equal(together.weights, first)


@pytest.mark.parametrize(("topology", "name"), [("ring", "int8"), ("random_ring", "int4"), ("ring", "topk")])
def test_memories_and_distances_stay_bounded_while_learners_move(topology: TopologyName, name: str):
    """What is unsent, s - m, stays within a multiple of a step's change however long it goes on; so do distances."""
    generator, together = torch.Generator().manual_seed(0), Together(torch.zeros(4, ELEMENTS), topology, name)
    unsent, distances = [], []
    for _ in range(160):
        together.weights += torch.randn(4, ELEMENTS, generator=generator)
        sent = [next(iter(each.replicas.sent.values()))[0] for each in together.learners if each.replicas.sent]
        unsent.append(max(((w - m).norm().item() for w, m in zip(together.weights, sent, strict=False)), default=0.0))
        together.mix()
        distances.append(apart(together.weights))
    unit = ELEMENTS**0.5
    assert max(unsent) < (30 if name == "topk" else 8) * unit
    assert max(distances) < (20 if name == "topk" else 8) * unit
    assert sum(distances[120:]) < 1.25 * sum(distances[80:120])


@pytest.mark.parametrize("topology", ["ring", "random_ring", "exponential"])
def test_rounds_are_those_of_the_paper(topology: TopologyName):
    """Against a reference in matrices, of replicas of each learner as each other one has it."""
    together, gamma = Together(starts(4), topology, "int4", 0.7), 0.7
    x, m = starts(4), torch.full((4, 4, ELEMENTS), torch.nan, dtype=torch.float64)  # m[i, j]: i as j knows it
    for step in range(8):
        noise = 0.1 * torch.randn(4, ELEMENTS, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        T = together.topology.mixing_matrix(4, step).fill_diagonal_(0)  # T[i, j]: i receives from j
        for j, i in T.nonzero().tolist():
            if m[i, j].isnan().any():
                m[i, j] = x[i]
            else:
                code("int4").write(x[i], m[i, j], code("int4").message(ELEMENTS))
        moved = torch.einsum("ij,jid->id", T, m.nan_to_num()) - torch.einsum("ji,ijd->id", T, m.nan_to_num())
        x = x + gamma * moved + noise
        together.mix()
        together.weights += noise
        torch.testing.assert_close(together.weights, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("topology", ["ring", "random_ring"])
def test_payload_is_the_bytes_of_the_messages(topology: TopologyName, name: str):
    """First messages are whole; later ones have the bytes of the code, to each of two neighbours."""
    together, met = Together(starts(5, torch.float32), topology, name), [set() for _ in range(5)]
    for step in range(4):
        together.mix()
        for rank, learner in enumerate(together.learners):
            peers = set(together.topology.row(rank, 5, step)) - {rank}
            new, figures = len(peers - met[rank]), learner.figures(rounds=1)
            met[rank] |= peers
            expected = new * ELEMENTS * 4 + (2 - new) * code(name).message_bytes(ELEMENTS)
            parts = [figures[f"comm/payload_{kind}"] for kind in ("values", "indices", "uncompressed")]
            assert sum(parts) == expected == together.sent_bytes[rank]
            assert figures["comm/compression_ratio"] == pytest.approx(2 * ELEMENTS * 4 / expected)
            assert (parts[1] > 0) == (name == "topk" and new < 2)
            assert learner.figures(rounds=1) == {}


def test_a_message_that_is_not_finite_names_its_sender():
    together = Together(starts(3), "ring", "int8")
    together.mix()
    together.learners[1].replicas.sent["all"][0][3] = torch.inf
    with pytest.raises(NonFiniteWeightsError, match="learner 1 sent weights that are not finite"):
        together.mix()


def test_other_learners_or_none_that_were_compressed_begin_anew():
    together = Together(starts(3), "ring", "int4")
    together.mix()
    learner = together.learners[0]
    states: Sequence[dict[str, Any]] = [{"replicas": each.state_dict()} for each in together.learners]
    for saved, known in (([{"round": 5}] * 3, 0), (states[:2], 0), (states, 2)):
        learner.load_state_dict(saved, 3)
        assert (len(learner.replicas.sent), len(learner.replicas.received)) == (known // 2, known)


class Learner:
    """A real scheme on one of several learners, around a model with weights ``start``."""

    def __init__(self, world: World, start: Tensor, word: str = "dpsgd", **changes: Any) -> None:
        backend = SCHEMES[word].build(world, **changes)
        assert isinstance(backend, LockstepMixing)
        backend.wrap(nn.Linear(len(start), 1, bias=False).to(start.dtype))
        self.backend, self.weights = backend, backend.flat.flat[0][: len(start)]
        self.generator = torch.Generator().manual_seed(world.rank)
        with torch.no_grad():
            self.weights.copy_(start)

    def steps(self, number: int) -> Tensor:
        """Weights after each step without a gradient, in which they change at random: (number, ELEMENTS)."""
        history = []
        for _ in range(number):
            self.backend.begin_step(1.0, 1.0)
            with self.backend.updating(apply=False), torch.no_grad():
                noise = torch.randn(len(self.weights), generator=self.generator, dtype=self.weights.dtype)
                self.weights += 0.1 * noise
            history.append(self.weights.clone())
        return torch.stack(history)


def test_schemes_do_what_their_rounds_do_and_count_their_bytes(run_learners):
    """DPSGD on a changing ring, and delay-by-one, which is DPSGD with complete mixing."""
    first, options = starts(3), {"compression": "topk", "compression_rate": 4}

    def learner(world: World) -> list[tuple[Tensor, dict[str, float]]]:
        found = [
            Learner(world, first[world.rank], topology="random_ring", **options),
            Learner(world, first[world.rank], topology="complete", **options),
            Learner(world, first[world.rank], "delay_by_one", **options),
        ]
        return [(each.steps(5), each.backend.metrics()) for each in found]

    results = run_learners(3, learner)
    for place, topology in enumerate(("random_ring", "complete", "complete")):
        together = Together(first, topology, "topk")
        for each in together.learners:
            each.replicas.code = code("topk", 4)
            each.gamma = 0.25
        generators = [torch.Generator().manual_seed(rank) for rank in range(3)]
        for step in range(5):
            together.mix()
            noise = torch.stack([torch.randn(ELEMENTS, generator=each, dtype=torch.float64) for each in generators])
            together.weights += 0.1 * noise
            actual = torch.stack([found[place][0][step] for found in results])
            torch.testing.assert_close(actual, together.weights, rtol=0, atol=1e-12)
        length = -(-ELEMENTS // 8) * 8  # as flat parameters are filled up
        expected = 2 * (length * 8 + 4 * code("topk", 4).message_bytes(length))
        for _, row in (found[place] for found in results):
            assert row["comm/bytes_sent"] == row["comm/bytes_received"] == expected
            parts = [row[f"comm/payload_{kind}"] for kind in ("values", "indices", "uncompressed")]
            assert sum(parts) * 5 == pytest.approx(expected)


@pytest.mark.parametrize(("word", "topology"), [("dpsgd", "ring"), ("dpsgd", "random_ring"), ("delay_by_one", None)])
def test_a_resume_is_bitwise_the_uninterrupted_run(run_learners, word: str, topology: str | None):
    first, states = starts(3, torch.float32), [None] * 3
    settings = {"compression": "topk"} | ({"topology": topology} if topology else {})

    def learner(world: World) -> tuple[Tensor, Tensor]:
        whole = Learner(world, first[world.rank], word, **settings)
        at = whole.steps(5)[-1]
        states[world.rank] = copy.deepcopy(whole.backend.state_dict())
        world.barrier()
        resumed = Learner(world, at, word, **settings)
        resumed.backend.load_state_dict(states, world.rank, world.size)
        resumed.generator.set_state(whole.generator.get_state())
        return whole.steps(5), resumed.steps(5)

    for whole, resumed in run_learners(3, learner):
        assert torch.equal(whole, resumed)


def test_both_ends_of_an_edge_move_by_opposite_amounts_bitwise():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(100, generator=generator) for _ in range(2))
    here, there = torch.empty(100), torch.empty(100)
    consensus_difference([Edge(1 / 3, one, other)], 0.3, here)
    consensus_difference([Edge(1 / 3, other, one)], 0.3, there)
    assert torch.equal(here, -there)
    consensus_difference([Edge(1 / 3, one, one), Edge(1 / 3, other, other)], 0.3, here)
    assert not here.any()


@pytest.mark.parametrize("word", ["dpsgd", "delay_by_one", "adpsgd"])
def test_moments_are_not_compressed(alone: World, word: str):
    with pytest.raises(
        ValueError, match=r"backend.compression=int8 is for weights alone.*set backend.mix_moments=false"
    ):
        SCHEMES[word].build(alone, compression="int8", mix_moments=True)
