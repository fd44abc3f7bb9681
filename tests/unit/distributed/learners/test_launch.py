"""Reading the launcher's environment, starting alone, and the small messages between learners."""

import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from distributed.learners.environment import KERNELS, LaunchError, Place, place
from distributed.learners.launch import start, stop
from distributed.learners.signs import Loss
from distributed.learners.watch import Watch
from distributed.learners.world import World

VARIABLES = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*VARIABLES, "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_a_launcher_a_process_is_alone(environment: pytest.MonkeyPatch):
    assert place() == Place(rank=0, size=1, local_rank=0, local_size=1, launched=False)


def test_place_is_what_the_launcher_says_and_touches_no_group(environment: pytest.MonkeyPatch):
    for name, value in VARIABLES.items():
        environment.setenv(name, value)
    assert place() == Place(rank=5, size=8, local_rank=1, local_size=4, launched=True)
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WORLD_SIZE", None, "WORLD_SIZE is not"),
        ("LOCAL_RANK", "one", "LOCAL_RANK must be an integer, got 'one'"),
        ("RANK", "8", "RANK=8 of WORLD_SIZE=8"),
        ("LOCAL_WORLD_SIZE", "9", "LOCAL_WORLD_SIZE=9"),
    ],
)
def test_a_partly_set_environment_is_refused(
    environment: pytest.MonkeyPatch, name: str, value: str | None, message: str
):
    for each, usual in VARIABLES.items():
        environment.setenv(each, usual)
    environment.delenv(name) if value is None else environment.setenv(name, value)
    with pytest.raises(LaunchError, match=message):
        place()


def test_start_alone_and_stop_twice(environment: pytest.MonkeyPatch):
    threads = torch.get_num_threads()
    environment.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    world = start(place(), join_seconds=5, timeout_seconds=5, patience_seconds=None, device="cpu", threads=1)
    try:
        assert (world.rank, world.size, world.device) == (0, 1, torch.device("cpu"))
        assert torch.get_num_threads() == 1
        assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(KERNELS)
        assert world.joined.size() == 1
    finally:
        torch.set_num_threads(threads)
        stop(world)
    stop(world)
    assert not dist.is_initialized()


def test_more_learners_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    two = Place(rank=0, size=2, local_rank=0, local_size=2, launched=True)
    for device in ("auto", "cuda"):
        with pytest.raises(LaunchError, match=r"2 learners on this host but 1 GPUs.* launch\.device=cpu"):
            start(two, join_seconds=5, timeout_seconds=5, patience_seconds=None, device=device, threads=1)


def test_messages_of_a_lone_learner_need_no_group(alone: World):
    tensor = torch.tensor([1.0, 2.0])
    assert alone.average(alone.broadcast(alone.all_reduce_sum(tensor), source=0)).tolist() == [1.0, 2.0]
    assert alone.gather(7) == [7]
    assert alone.any(True)
    assert not alone.any(False)
    with pytest.raises(ValueError, match="process group"):
        alone.new_group("x", [0])


def test_several_learners_need_a_group():
    with pytest.raises(ValueError, match="2 learners need a process group"):
        World(0, 2, 0, 2, torch.device("cpu"), None)


def test_messages_between_learners(run_learners):
    def talk(world: World) -> None:
        rank = world.rank
        assert world.all_reduce_sum(torch.tensor([1.0 * rank])).item() == 3.0
        assert world.broadcast(torch.tensor(rank), source=2).item() == 2
        assert world.broadcast(torch.tensor([rank == 1, rank == 0]), source=1).tolist() == [True, False]
        assert world.gather(rank * 2**60) == [0, 2**60, 2**61]
        assert world.average(torch.tensor([0.0, 3.0 * rank])).tolist() == [0.0, 3.0]
        odd = torch.full((5,), 0.1)
        assert torch.equal(world.average(odd.clone()), odd)
        assert world.any(rank == 2)
        assert not world.any(False)
        world.barrier()

    run_learners(3, talk)


def test_all_know_who_has_failed_first_and_why(run_learners):
    def talk(world: World) -> list[tuple[int, str] | None]:
        lines = {1: "no space\nleft", 2: "x" * 5000}
        return [world.first_failure(None), world.first_failure(lines.get(world.rank))]

    assert run_learners(3, talk) == [[None, (1, "no space left")]] * 3


def test_a_new_group_holds_only_its_ranks(run_learners):
    def sum_of_group(world: World) -> float:
        if world.rank == 1:
            return -1.0
        tensor = torch.tensor([1.0 + world.rank])
        for _ in range(2):  # a second group of the same name is another one
            group = world.new_group("outer", [0, 2])
            group.allreduce([tensor]).wait()
        return tensor.item()

    assert run_learners(3, sum_of_group) == [8.0, -1.0, 8.0]


FIRST_OPERATIONS = """
import threading
import torch
import torch.distributed as dist
from distributed.learners.gloo import gloo_group

together = threading.Barrier(6)

def talk():
    for _ in range(150):
        group = gloo_group(dist.HashStore(), 0, 1, timeout_seconds=20)
        together.wait()
        group.allreduce([torch.ones(2)]).wait()

threads = [threading.Thread(target=talk) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_groups_may_begin_at_once_in_several_threads():
    """As asynchronous gossip does, and every test here whose learners are threads: torch's recorder forbids it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_")}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_OPERATIONS], env=environment, timeout=100, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


COMPILING = """
import sys, torch
from distributed.learners.environment import KERNELS, bound_kernels
bound_kernels()
filters = torch.randn(64, 32, 3, 3)
for height in (*range(20, 30 + KERNELS // 2), 20):  # a convolution and what brings the image into its layout
    torch.nn.functional.conv2d(torch.randn(1, 32, height, 40), filters)
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize(("given", "kept"), [({}, False), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}, True)])
def test_few_kernels_are_kept_unless_the_user_says_how_many(given: dict[str, str], kept: bool):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN_PRIM")}
    environment |= {"OMP_NUM_THREADS": "1", "ONEDNN_VERBOSE": "2", **given}
    done = subprocess.run(
        [sys.executable, "-c", COMPILING], env=environment, timeout=100, capture_output=True, text=True
    )
    compiled = [line for line in done.stdout.splitlines() if "create:" in line and "cpu,convolution" in line]
    assert len(compiled) > KERNELS // 2
    assert ("cache_hit" in compiled[-1]) == kept


@pytest.mark.parametrize("lost", [None, Loss(1, "has ended")])
def test_groups_are_let_go_at_the_end_unless_a_learner_is_lost(lost: Loss | None) -> None:
    """One that is let go waits for what is stuck in it."""
    watch = Mock(spec=Watch, liveness=Mock(loss=lost), groups=["a group"])
    stop(World(0, 1, 0, 1, torch.device("cpu"), None, watch=watch))
    watch.close.assert_called_once_with()
    assert watch.groups == ([] if lost is None else ["a group"])
