"""The optimizer's parameter groups: every trainable parameter is in exactly one, with that group's options.

Weights of two or more dimensions decay, biases and the weights of normalisation layers do not, and hooks get groups of
the parameters that they named in ``on_parameter_groups``. Each group carries flags that other modules read:
``clip`` (gradient clipping), ``scale_lr`` (linear scaling, trust ratios), ``compress`` (sparsification), ``schedule``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from asr.training.hook import ParameterGroup
from distributed.errors import UsageError

FLAGS = ("clip", "scale_lr", "compress", "schedule")


def parameter_groups(
    model: nn.Module, hook_groups: Mapping[str, Sequence[ParameterGroup]], weight_decay: float
) -> list[dict[str, Any]]:
    """The groups for an optimizer: ``decayed``, ``not_decayed``, then those of hooks.

    A hook's group is named after the hook, or ``<hook>-0``, ``<hook>-1``, ... where it has several. Empty groups are
    left out. A hook's group does not decay unless its options say so.

    Raises:
        ValueError: a parameter does not exist or is frozen, or is claimed twice, or a group that may be idle is compressed.
    """
    free = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    claimed: dict[str, str] = {}
    groups = []
    for title, group in _titled(hook_groups):
        for name in group.names:
            _check_claim(name, title, free.keys(), claimed)
            claimed[name] = title
        groups.append(_hook_group(title, group, [free[name] for name in group.names]))
    rest = [parameter for name, parameter in free.items() if name not in claimed]
    flags = dict.fromkeys(FLAGS, True)
    decayed = {"name": "decayed", "params": [p for p in rest if p.dim() >= 2], "weight_decay": weight_decay}
    others = {"name": "not_decayed", "params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0}
    return [group for group in ({**decayed, **flags}, {**others, **flags}, *groups) if group["params"]]


def _titled(hook_groups: Mapping[str, Sequence[ParameterGroup]]) -> Iterator[tuple[str, ParameterGroup]]:
    for hook, groups in hook_groups.items():
        for index, group in enumerate(groups):
            yield hook if len(groups) == 1 else f"{hook}-{index}", group


def _hook_group(title: str, group: ParameterGroup, parameters: list[nn.Parameter]) -> dict[str, Any]:
    reserved = {"params", "name", *FLAGS} & group.options.keys()
    if reserved:
        raise ValueError(
            f"options of parameter group {title} must not contain {', '.join(sorted(reserved))}:"
            f" flags are fields of ParameterGroup"
        )
    if group.idle is not None and group.compress:
        raise ValueError(
            f"parameter group {title} may be idle, and so needs compress=False: what a memory owes of it would be sent "
            "in a step that leaves it alone"
        )
    flags = {flag: getattr(group, flag) for flag in FLAGS}
    return {"name": title, "params": parameters, "weight_decay": 0.0, **group.options, **flags}


def _check_claim(name: str, title: str, known: Collection[str], claimed: dict[str, str]) -> None:
    if name in claimed:
        raise ValueError(
            f"parameter {name!r} is claimed by the groups {claimed[name]} and {title}: it can follow one rule"
        )
    if name not in known:
        raise UsageError(f"parameter group {title} names {name!r}, which is no trainable parameter of the model")
