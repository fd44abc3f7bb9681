"""Who gets which rule: every trainable parameter in exactly one group of the optimizer.

Weights of two or more dimensions decay, biases and the weights of normalisation layers do not, and hooks take the
parameters that they named in ``on_parameter_groups``. Each group carries the flags that others read:
``clip`` (gradient clipping), ``scale_lr`` (linear scaling, trust ratios), ``compress`` (sparsification), ``schedule``.
"""

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from asr.training.hook import ParameterGroup
from distributed.errors import UsageError

FLAGS = ("clip", "scale_lr", "compress", "schedule")


def parameter_groups(
    model: nn.Module, hook_groups: Sequence[ParameterGroup], weight_decay: float
) -> list[dict[str, Any]]:
    """The groups for an optimizer: ``decayed``, ``not_decayed``, then ``hook-0``, ``hook-1``, ...

    Empty groups are left out. A hook's group does not decay unless its options say so.
    Raises ValueError for a parameter that does not exist or is frozen, or is claimed twice.
    """
    free = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    claimed: dict[str, int] = {}
    groups = []
    for index, group in enumerate(hook_groups):
        for name in group.names:
            _check_claim(name, index, free.keys(), claimed)
            claimed[name] = index
        groups.append(_hook_group(index, group, [free[name] for name in group.names]))
    rest = [parameter for name, parameter in free.items() if name not in claimed]
    flags = dict.fromkeys(FLAGS, True)
    decayed = {"name": "decayed", "params": [p for p in rest if p.dim() >= 2], "weight_decay": weight_decay}
    others = {"name": "not_decayed", "params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0}
    return [group for group in ({**decayed, **flags}, {**others, **flags}, *groups) if group["params"]]


def _hook_group(index: int, group: ParameterGroup, parameters: list[nn.Parameter]) -> dict[str, Any]:
    reserved = {"params", "name", *FLAGS} & group.options.keys()
    if reserved:
        raise ValueError(
            f"options of parameter group hook-{index} must not contain {', '.join(sorted(reserved))}:"
            f" flags are fields of ParameterGroup"
        )
    flags = {flag: getattr(group, flag) for flag in FLAGS}
    return {"name": f"hook-{index}", "params": parameters, "weight_decay": 0.0, **group.options, **flags}


def _check_claim(name: str, index: int, known: Collection[str], claimed: dict[str, int]) -> None:
    if name in claimed:
        raise ValueError(
            f"parameter {name!r} is claimed by the groups hook-{claimed[name]} and hook-{index}: it can follow one rule"
        )
    if name not in known:
        raise UsageError(f"parameter group hook-{index} names {name!r}, which is no trainable parameter of the model")
