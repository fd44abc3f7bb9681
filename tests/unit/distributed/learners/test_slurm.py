"""SLURM's variables of a task: which learner it is, and where all meet."""

import pytest

from distributed.learners.environment import LaunchError, Meeting, Place
from distributed.learners.slurm import first_host, slurm_task, tasks_per_node

STEP = {
    "SLURM_PROCID": "4", "SLURM_LOCALID": "0", "SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "n[01-03]", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "tasks"), [("1", [1]), ("4(x3)", [4, 4, 4]), ("2(x2),1", [2, 2, 1]), ("1,16(x1)", [1, 16])]
)
def test_tasks_of_each_node(text: str, tasks: list[int]) -> None:
    assert tasks_per_node(text) == tasks


@pytest.mark.parametrize("text", ["", "x", "2(x)", "2,", "-1", "2(3)"])
def test_what_slurm_does_not_write_is_refused(text: str) -> None:
    with pytest.raises(LaunchError, match="not as SLURM writes it"):
        tasks_per_node(text)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n1", "n1"),
        ("a,b", "a"),
        ("n[01-03,7],gpu7", "n01"),
        ("rack[2,4]-node[08-15]", "rack2-node08"),
        ("n[5,7-9].example.org", "n5.example.org"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_a_task_is_a_learner_and_nodes_may_have_unequally_many() -> None:
    task = slurm_task(STEP)
    assert task.as_learner() == Place(4, 5, 0, 1, launched=True)
    assert task.meeting == Meeting("n01", task.meeting.port, hosted=False)
    assert not task.one_per_node
    others = [
        STEP | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number % 2), "SLURM_NODEID": str(number // 2)}
        for number in range(4)
    ]
    assert {slurm_task(each).meeting for each in others} == {task.meeting}
    assert [slurm_task(each).as_learner().local_size for each in others] == [2] * 4


def test_on_one_node_learners_meet_on_the_loopback() -> None:
    alone = STEP | {"SLURM_STEP_TASKS_PER_NODE": "5", "SLURM_LOCALID": "4", "SLURM_NODEID": "0"}
    assert slurm_task(alone).meeting.address == "127.0.0.1"
    assert slurm_task(alone).as_learner().one_host


def test_jobs_and_steps_meet_at_ports_of_their_own() -> None:
    ports = {
        slurm_task(STEP | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).meeting.port
        for job in range(1000, 1100)
        for step in range(8)
    }
    assert len(ports) == 800
    assert all(1024 < port < 32768 for port in ports)


def test_an_address_that_the_user_has_chosen_wins() -> None:
    chosen = STEP | {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
    assert slurm_task(chosen).meeting == Meeting("head", 29500, hosted=False)


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_JOB_ID", "SLURM_STEP_NODELIST"])
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(LaunchError, match=f"{name} is not set.*leave out --slurm"):
        slurm_task({key: value for key, value in STEP.items() if key != name})


@pytest.mark.parametrize(
    "changed", [{"SLURM_PROCID": "5"}, {"SLURM_LOCALID": "1"}, {"SLURM_NODEID": "3"}, {"SLURM_PROCID": "-1"}]
)
def test_variables_that_do_not_fit_together_are_refused(changed: dict[str, str]) -> None:
    with pytest.raises(LaunchError, match=r"SLURM_(PROCID|LOCALID|NODEID)"):
        slurm_task(STEP | changed)
