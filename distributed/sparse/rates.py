"""The rate at which each parameter is compressed: by patterns of names; small and first parameters are not compressed.

One entry in ``rate`` of a parameter is sent; 1 sends all. The first pattern that matches a name decides. Where none
does, parameters of fewer than two dimensions (biases, normalisation) and those of the first convolution, which reads
the features, are dense: they are few, and every step needs them. All others have one rate, or each its own by how
often it is used (distributed/sparse/uses.py). Source: ScaleCom, arXiv 2104.11125, section 4.
"""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from distributed.errors import UsageError
from distributed.parameters.patterns import settings_by_pattern

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def rates_of(
    model: nn.Module,
    rate: int | Mapping[str, int],
    patterns: Sequence[tuple[str, int]],
    uncompressed: Collection[Tensor] = (),
) -> dict[str, int]:
    """The rate of every parameter by name; those in ``uncompressed`` are dense whatever patterns say.

    ``rate``: the rate of all parameters to which nothing else applies, one for all or by name. A pattern is matched
    against all names of a tied parameter; the result has the first of these names.

    Raises:
        ValueError: a pattern's rate is below 1, or it matches no parameter, as a misspelt one would.
    """
    defaults = default_rates(model, rate)
    for pattern, own in patterns:
        if own < 1:
            raise UsageError(f"backend.rates: {pattern!r} has rate {own}; a rate is at least 1, which sends everything")
    fixed = {id(parameter) for parameter in uncompressed}
    dense = {name for name, parameter in model.named_parameters() if id(parameter) in fixed}
    rates = defaults | settings_by_pattern(patterns, _all_names(model), key="backend.rates", kind="parameter")
    return rates | dict.fromkeys(dense, 1)


def _all_names(model: nn.Module) -> dict[str, list[str]]:
    """All names of every parameter by its first one: a tied parameter has several."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    names: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[first[id(parameter)]].append(name)
    return names


def default_rates(model: nn.Module, rate: int | Mapping[str, int]) -> dict[str, int]:
    """The rate of every parameter before patterns are applied."""
    convolutions = (module for module in model.modules() if isinstance(module, CONVOLUTIONS))
    first = next(convolutions, nn.Identity())
    dense = {id(parameter) for parameter in first.parameters()}  # of which a parametrisation may make the weight
    rates = dict.fromkeys(dict(model.named_parameters()), rate) if isinstance(rate, int) else rate
    return {
        name: 1 if parameter.dim() < 2 or id(parameter) in dense else rates[name]
        for name, parameter in model.named_parameters()
    }


def summary(model: nn.Module, rates: Mapping[str, int]) -> str:
    """One line with the number of parameters and entries that are sent at each rate."""
    parameters = dict(model.named_parameters())
    parts = []
    for rate in sorted(set(rates.values())):
        sizes = [parameters[name].numel() for name, own in rates.items() if own == rate]
        what = "all" if rate == 1 else f"1 in {rate}"
        parts.append(f"{what} of {len(sizes)} parameters ({sum(sizes):,} entries)")
    return "gradient entries sent: " + ", ".join(parts)
