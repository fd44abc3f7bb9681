"""Parameters and floating point operations of a model as functions of the numbers of units of its sites.

The number of entries of a tensor is a product of sizes, each of which is a sum of multiples of sites' sizes. Over all
tensors it is a polynomial, which is exact for whole numbers of units and differentiable between them. So the cost of
masks is that of the sizes which they are expected to have (arXiv 2305.19549, section 2: |z_ffn| (2 |z_hid| + ...)).
A module of which no unit is left counts nothing: it is multiplied by min(1, size).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asr.models.attention import RelativeAttention
from asr.models.auxiliary import without_auxiliaries
from asr.models.conformer import Conformer
from asr.models.relative_attention import position_products
from asr.models.speech_model import SpeechModel
from asr.models.transducer import Transducer
from compression.pruning.removal import lies_in
from compression.pruning.sites import sites
from compression.pruning.units import ON_REQUEST, Site
from distributed.errors import UsageError

Scope = Literal["encoder", "model"]
Sizes = Mapping[str, Tensor]
Cost = Callable[[Sizes], Tensor]
"""The cost, a scalar, of sites of these numbers of units; it has a gradient."""

Variable = tuple[str, bool]  # name of a site; False: its size, True: min(1, size)
Polynomial = dict[tuple[Variable, ...], float]
TOKENS_PER_SECOND = 4  # of the utterance whose operations are counted; word pieces of read speech


@dataclass(frozen=True, slots=True)
class Extent:
    """The utterance whose cost is counted."""

    frames: int  # feature frames of 10 ms

    @property
    def tokens(self) -> int:
        """Number of its tokens."""
        return round(self.frames / 100 * TOKENS_PER_SECOND)


def counted_sites(model: SpeechModel, kinds: Collection[str] | None, scope: Scope) -> list[Site]:
    """The sites of these kinds (None: of all that the scope has and that need not be named), whose units all count in the cost.

    Raises:
        UsageError: there are none, or those of a kind cost nothing in the scope.
    """
    found = [site for site in sites(model, kinds) if kinds or site.kind not in ON_REQUEST]
    counted = [site for site in found if scope == "model" or in_encoder(site)]
    others = {site.kind for site in found} - {site.kind for site in counted}
    if kinds and others:
        raise UsageError(
            f"kinds: {', '.join(sorted(others))} cost nothing with scope=encoder; leave them out, or set scope=model"
        )
    if not counted:
        raise UsageError("this model has nothing that can be pruned")
    return counted


def in_encoder(site: Site) -> bool:
    """Whether a site's units are the encoder's."""
    return site.name.startswith("encoder.")


def parameters(model: SpeechModel, found: Sequence[Site], scope: Scope) -> Cost:
    """Number of parameters of the encoder or of the whole model, without what only the loss has.

    A transducer's CTC head counts: model folders hold it. In ``operations`` it does not, as greedy decoding does not compute it.
    """
    total: Polynomial = {}
    for name, shape in _shapes(model, scope).items():
        add(total, entries(name, shape, found))
    return Evaluated(total)


def operations(model: SpeechModel, found: Sequence[Site], scope: Scope, extent: Extent) -> Cost:
    """Floating point operations (two a multiplication) of greedy decoding of one utterance.

    Counted are products with matrices and within attention, as offline; not counted are norms and other vectors.
    """
    total: Polynomial = {}
    times = rows(model, extent)
    for name, shape in _shapes(model, scope).items():
        if len(shape) > 1:
            add(total, entries(name, shape, found), 2.0 * times(name))
    states = _states(model, extent)
    for where, part in model.named_modules():
        if isinstance(part, RelativeAttention):  # content, positions, and the mean of values
            name = f"{where}.output.weight"
            inner = entries(name, (part.output.in_features,), [_column(site, name) for site in found])
            add(total, inner, 2.0 * (2 * states**2 + position_products(states, states)))
    return Evaluated(total)


def _column(site: Site, parameter: str) -> Site:
    """The site as if a parameter had its second dimension alone."""
    uses = tuple(
        type(use)(use.parameter, 0, use.units) for use in site.uses if use.parameter == parameter and use.dim == 1
    )
    return Site(site.name, site.kind, site.size, site.setting, uses, owned=site.owned)


def entries(name: str, shape: Sequence[int], found: Sequence[Site]) -> Polynomial:
    """Number of entries of a tensor."""
    product: Polynomial = {(): 1.0}
    for dim, positions in enumerate(shape):
        form: Polynomial = {(): float(positions)}
        lying = [site for site in found if any(use.parameter == name and use.dim == dim for use in site.uses)]
        # The number of units within another's is of those that both keep: where it counts, the other's does not.
        outer = {site.within.site for site in lying if site.within is not None}
        for site in lying:
            for use in site.uses:
                if use.parameter == name and use.dim == dim and site.kind != "module" and site.name not in outer:
                    covered = int((use.units >= 0).sum())
                    add(form, {(): -float(covered), ((site.name, False),): covered / site.size})
        product = multiplied(product, form)
    for site in found:
        if lies_in(name, site.owned):
            product = multiplied(product, {((site.name, True),): 1.0})
    return product


def add(total: Polynomial, other: Polynomial, factor: float = 1.0) -> None:
    """Add a multiple of ``other`` to ``total``."""
    for variables, coefficient in other.items():
        total[variables] = total.get(variables, 0.0) + factor * coefficient


def multiplied(one: Polynomial, other: Polynomial) -> Polynomial:
    """The product of two polynomials, without terms of 0."""
    made: Polynomial = {}
    for left, a in one.items():
        for right, b in other.items():
            if a * b:
                add(made, {tuple(sorted((*left, *right))): a * b})
    return made


class Evaluated:
    """A polynomial that can be evaluated, in double precision."""

    def __init__(self, polynomial: Polynomial) -> None:
        self.variables = sorted({each for variables in polynomial for each in variables})
        place = {each: index for index, each in enumerate(self.variables)}
        degree = max((len(variables) for variables in polynomial), default=0)
        one = len(self.variables)
        padded = [
            [*(place[each] for each in variables), *[one] * (degree - len(variables))] for variables in polynomial
        ]
        self.places = torch.tensor(padded, dtype=torch.int64)
        self.coefficients = torch.tensor(list(polynomial.values()), dtype=torch.float64)

    def __call__(self, sizes: Sizes) -> Tensor:
        """The value for numbers of units by the names of sites, on their device."""
        device = next(iter(sizes.values())).device if sizes else self.places.device
        one = torch.ones((), dtype=torch.float64, device=device)
        values = [sizes[name].double().clamp(max=1) if gate else sizes[name].double() for name, gate in self.variables]
        terms = torch.stack([*values, one])[self.places.to(device)].prod(1)
        return (terms * self.coefficients.to(device)).sum()


def full_sizes(found: Sequence[Site]) -> dict[str, Tensor]:
    """All units of every site."""
    return {site.name: torch.tensor(float(site.size), dtype=torch.float64) for site in found}


# ---------------------------------------------------------------------- how often a matrix is multiplied by


def rows(model: SpeechModel, extent: Extent) -> Callable[[str], int]:
    """How many vectors each parameter multiplies."""
    states, steps = _states(model, extent), extent.tokens + 1
    by_name: dict[str, int] = {
        "predictor.embedding": 0,
        "predictor": steps,
        "joiner.project_predictor": steps,
        "joiner.output": states + extent.tokens,
        "ctc_head": 0 if isinstance(model, Transducer) else states,
    }
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, Conformer):
        bands = encoder.subsample.project.in_features // encoder.subsample.second.out_channels
        by_name |= {"encoder.subsample.first": 2 * states * 2 * bands, "encoder.subsample.second": states * bands}

    def times(name: str) -> int:
        if name.endswith(".position.weight"):
            return 2 * states
        return next((number for module, number in by_name.items() if lies_in(name, [module])), states)

    return times


def _states(model: SpeechModel, extent: Extent) -> int:
    return -(-extent.frames // model.subsampling)


def _shapes(model: SpeechModel, scope: Scope) -> dict[str, tuple[int, ...]]:
    named = without_auxiliaries(dict(model.named_parameters()))
    inside = ("encoder",) if scope == "encoder" else tuple({name.partition(".")[0] for name in named} - {"loss"})
    return {name: tuple(each.shape) for name, each in named.items() if lies_in(name, inside)}
