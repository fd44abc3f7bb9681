"""Several forwards and backwards of a unit in one step: subnetworks of a supernet, two views of the same utterances.

    for part in parts of the unit:
        for each in passes:                       # complete ones last
            with each.context():
                loss = model(part) + terms of hooks
                (each.weight * loss / divisor).backward()

The last pass of the last part of a learner's last unit is the one whose backward communicates. Where gradients are
averaged during that backward, it must reach every parameter: one without a gradient would be waited for.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr.runs.progress import Progress
from distributed.errors import UsageError

if TYPE_CHECKING:
    from asr.training.hook import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """One forward and backward of every unit of a step."""

    name: str = ""  # prefix of its logged terms, and key of its dropout; unique among the passes of a step
    weight: float = 1.0  # weight of its loss in the sum
    context: Callable[[], AbstractContextManager[object]] = nullcontext  # entered around forward, on_loss and backward
    complete: bool = True  # its backward reaches every trainable parameter


ORDINARY = (ForwardPass(),)


def passes_of(hooks: Mapping[str, "Hook"], progress: Progress, whole_last: bool) -> Sequence[ForwardPass]:
    """The passes of a step over each unit: one ordinary pass, or those that a hook asks for (at most one hook may).

    ``whole_last``: whether the backward that communicates must reach every parameter; complete passes come last.

    Raises:
        UsageError: two hooks ask for passes, or one asks for none, for two of one name, or for no complete one where
            ``whole_last`` needs one.
    """
    asked = {name: found for name, hook in hooks.items() if (found := hook.passes(progress)) is not None}
    if not asked:
        return ORDINARY
    if len(asked) > 1:
        raise UsageError(f"hooks=[{','.join(asked)}]: each decides which passes a step makes; leave all but one out")
    ((name, passes),) = asked.items()
    names = [each.name for each in passes]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"hooks.{name}: a step makes at least one pass, each with a name of its own; got {names}")
    ordered = sorted(passes, key=lambda each: each.complete)
    if whole_last and not ordered[-1].complete:
        raise UsageError(
            f"hooks.{name}: none of the passes {names} uses every parameter, but this backend averages gradients during "
            "the last backward; choose one that does not: backend=single, dpsgd, delay_by_one, adpsgd or scalecom"
        )
    return ordered
