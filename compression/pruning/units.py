"""Sites: groups of equal units of a model, and where they lie in its tensors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from asr.models.speech_model import SpeechModel

Kind = Literal[
    "heads", "feed_forward", "channels", "module", "width", "local_width", "subsampling", "cells", "predictor", "joint"
]  # fmt: skip
ON_REQUEST = ("local_width",)  # kinds that are pruned only where they are named
READERS_OF_STATES = ("joiner.project_encoder", "ctc_head", "bottleneck")


@dataclass(frozen=True, slots=True)
class Use:
    """A dimension of a parameter along which a site's units lie."""

    parameter: str
    dim: int
    units: Tensor  # (positions,) int64: the unit at each position, -1 where it is none of the site's
    scaled: bool = False  # whether a unit's value multiplies its positions


@dataclass(frozen=True, slots=True)
class Within:
    """Of which units of another site a site's units are a part: one is kept only where its unit there is."""

    site: str
    units: Tensor  # (own units,) int64, ascending: the other site's unit for each


@dataclass(frozen=True, slots=True)
class Site:
    """A group of units of a model, each of which can be removed."""

    name: str
    kind: Kind
    size: int  # number of units
    setting: tuple[str | int, ...]  # where the model's node gives the number of units
    uses: tuple[Use, ...]
    norms: tuple[str, ...] = ()  # layer norms over the units
    owned: tuple[str, ...] = ()  # modules that are absent where no unit is left; () where one must be left
    offsets: tuple[str, ...] = ()  # biases inside them, which add to the residual stream without any unit
    within: Within | None = None

    @property
    def can_vanish(self) -> bool:
        """Whether the model can do without any of the units."""
        return bool(self.owned)

    def among(self, z: Mapping[str, Tensor]) -> Tensor | None:
        """(units,) bool: those that the values ``z`` of other sites leave; None: nothing is said of the site they lie within."""
        if self.within is None or self.within.site not in z:
            return None
        outer = z[self.within.site]
        return outer[self.within.units.to(outer.device)] > 0


class Factorised(nn.Module):
    """A layer whose weight is a product of two: its units lie in neither as they lie in a plain layer's."""


def layout(size: int, *, each: int = 1, times: int = 1, before: int = 0, after: int = 0) -> Tensor:
    """Units 0 ... ``size`` - 1, ``each`` positions of one after the other, all of that ``times``; -1 before and after."""
    none = torch.full((1,), -1)
    units = torch.arange(size).repeat_interleave(each).repeat(times)
    return torch.cat([none.repeat(before), units, none.repeat(after)])


def along(module: str, dim: int, units: Tensor, *, scaled: bool = False) -> list[Use]:
    """Weight and bias of a module along their first dimension."""
    return [Use(f"{module}.{name}", dim, units, scaled) for name in ("weight", "bias")]


def existing(model: SpeechModel, modules: Iterable[str]) -> Sequence[str]:
    """Those of the modules that the model has."""
    names = {name for name, _ in model.named_modules()}
    return [name for name in modules if name in names]
