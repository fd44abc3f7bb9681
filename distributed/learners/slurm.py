"""Where SLURM has put this task of a job step, and where the learners of the step meet.

srun sets for each task (srun(1), OUTPUT ENVIRONMENT VARIABLES):

    SLURM_PROCID  SLURM_LOCALID  SLURM_NODEID         its number in the step, on its node, and that of its node
    SLURM_STEP_TASKS_PER_NODE                         such as 2(x3),1: two tasks on three nodes, one on the fourth
    SLURM_STEP_NODELIST                               such as n[01-03],gpu7
    SLURM_JOB_ID  SLURM_STEP_ID                       the port of the meeting is made of these

Learners meet on the node of task 0. MASTER_ADDR and MASTER_PORT, where they are set, win.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from distributed.learners.environment import LaunchError, Meeting, Place
from distributed.learners.liveness import LOOPBACK

_FIRST_PORT, _PORTS = 15_000, 16_000  # below the range from which Linux gives ports to connections (32768 on)
_STEPS = 8  # steps of one job that get ports of their own


@dataclass(frozen=True, slots=True)
class SlurmTask:
    """One task of a job step, and the address at which the learners of the step meet."""

    number: int
    tasks: int
    local_number: int
    tasks_on_node: int
    node: int
    nodes: int
    meeting: Meeting

    @property
    def one_per_node(self) -> bool:
        """Whether each node of the step has exactly one task."""
        return self.tasks == self.nodes

    def as_learner(self) -> Place:
        """The learner that this task is, where every task is one."""
        return Place(self.number, self.tasks, self.local_number, self.tasks_on_node, launched=True)


def slurm_task(variables: Mapping[str, str]) -> SlurmTask:
    """The task that a process is, from SLURM's variables.

    Raises:
        LaunchError: one of them is missing or makes no sense.
    """
    tasks_of_nodes = tasks_per_node(_text(variables, "SLURM_STEP_TASKS_PER_NODE"))
    number, node = _number(variables, "SLURM_PROCID"), _number(variables, "SLURM_NODEID")
    local = _number(variables, "SLURM_LOCALID")
    if node >= len(tasks_of_nodes) or local >= tasks_of_nodes[node] or number >= sum(tasks_of_nodes):
        raise LaunchError(
            f"SLURM_PROCID={number}, SLURM_LOCALID={local} and SLURM_NODEID={node} do not fit "
            f"SLURM_STEP_TASKS_PER_NODE={variables['SLURM_STEP_TASKS_PER_NODE']}: start the program with srun"
        )
    return SlurmTask(
        number=number,
        tasks=sum(tasks_of_nodes),
        local_number=local,
        tasks_on_node=tasks_of_nodes[node],
        node=node,
        nodes=len(tasks_of_nodes),
        meeting=_meeting(variables, nodes=len(tasks_of_nodes)),
    )


def tasks_per_node(text: str) -> list[int]:
    """The tasks of each node of a step, in the order of its nodes, as SLURM writes them: ``2(x3),1`` is [2, 2, 2, 1].

    Raises:
        LaunchError: it is written otherwise.
    """
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    if not all(parts):
        raise LaunchError(f"SLURM_STEP_TASKS_PER_NODE={text!r}: not as SLURM writes it, such as 2(x3),1")
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it: n01 of ``n[01-03,7],gpu7``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise LaunchError(f"SLURM_STEP_NODELIST={nodes!r}: not as SLURM writes it, such as n[01-03],gpu7")
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])


def _meeting(variables: Mapping[str, str], nodes: int) -> Meeting:
    address = variables.get("MASTER_ADDR")
    if not address:
        address = LOOPBACK if nodes == 1 else first_host(_text(variables, "SLURM_STEP_NODELIST"))
    if variables.get("MASTER_PORT"):
        return Meeting(address, _number(variables, "MASTER_PORT"), hosted=False)
    step = _number(variables, "SLURM_JOB_ID") * _STEPS + _number(variables, "SLURM_STEP_ID") % _STEPS
    return Meeting(address, _FIRST_PORT + step % _PORTS, hosted=False)


def _number(variables: Mapping[str, str], name: str) -> int:
    value = _text(variables, name)
    if not (value.isascii() and value.isdecimal()):
        raise LaunchError(f"environment variable {name} must be a number, got {value!r}")
    return int(value)


def _text(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name)
    if value is None:
        raise LaunchError(
            f"{name} is not set, as it is for tasks that srun starts; see docs/slurm.md, or leave out --slurm"
        )
    return value
