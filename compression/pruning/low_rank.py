"""Low-rank factors in place of matrices: the baseline "SVD" of arXiv 2305.19549, on linear layers and inputs of LSTMs.

    W (m, n)  ->  (U_r S_r^1/2) (S_r^1/2 V_r')        r (m + n) parameters in place of m n; the best approximation of rank r

U, S and V are the singular vectors and values of W (Eckart and Young 1936; for acoustic models Xue et al. 2013, Interspeech). An
LSTM computes W x_t for all steps at once: its input matrix becomes a linear layer before an LSTM of r inputs. Its recurrent matrix is
applied in every step and stays whole.

m outputs   n inputs   r rank   K inputs of an LSTM   H cells
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from asr.models.recurrence import Lstm, States
from asr.models.speech_model import SpeechModel
from asr.parts import build
from asr.runs.model_folder import LoadedModel
from compression.compress import Batches
from compression.pruning.costs import Scope, parameters
from compression.pruning.units import Factorised
from compression.quantization.transform import refuse_quantized
from distributed.errors import UsageError
from distributed.parameters.patterns import settings_by_pattern
from distributed.ranges import Count, Fraction

Allocation = Literal["uniform", "energy"]


def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(m, r) and (r, n), whose product is the nearest to ``weight`` (m, n) in the Frobenius norm."""
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    roots = values[:rank].sqrt()
    both = left[:, :rank] * roots, roots[:, None] * right[:rank]
    return both[0].to(weight.dtype), both[1].to(weight.dtype)


def importance(weight: Tensor, allocation: Allocation) -> Tensor:
    """For every rank 1, 2, ...: how much its singular value counts, beside those of other matrices; descending.

    uniform: all matrices keep the same fraction of their parameters
    energy:  the part of |W|^2 that the rank holds, for each parameter that it costs
    """
    rows, columns = weight.shape
    if allocation == "uniform":
        most = rows * columns / (rows + columns)
        return -torch.arange(1, min(rows, columns) + 1, dtype=torch.float64) / most
    energies = torch.linalg.svdvals(weight.double()).square()
    return energies / energies.sum().clamp_min(torch.finfo(torch.float64).tiny) / (rows + columns)


def saved(shape: tuple[int, int], rank: int) -> int:
    """Parameters that a matrix of this shape is smaller by; 0 where factors of this rank are not smaller."""
    rows, columns = shape
    return max(0, rows * columns - rank * (rows + columns))


def ranks_for(matrices: Mapping[str, Tensor], goal: float, allocation: Allocation) -> dict[str, int]:
    """The rank of each matrix that is factorised: together they save ``goal`` parameters, and the least more.

    Raises:
        UsageError: with rank 1 everywhere they would not save as much.
    """
    shapes = {name: (each.shape[0], each.shape[1]) for name, each in matrices.items()}
    ranked = {name: importance(each, allocation) for name, each in matrices.items()}
    thresholds = torch.cat(list(ranked.values())).unique()  # ascending: the higher, the fewer ranks are kept

    def kept(threshold: float) -> dict[str, int]:
        found = {name: max(1, int((each >= threshold).sum())) for name, each in ranked.items()}
        return {name: rank for name, rank in found.items() if saved(shapes[name], rank)}

    def saves(place: int) -> int:
        return sum(saved(shapes[name], rank) for name, rank in kept(float(thresholds[place])).items())

    low, high = 0, len(thresholds) - 1
    if saves(high) < goal:
        raise UsageError(
            f"the chosen layers have {sum(a * b for a, b in shapes.values()):,} parameters, of which factors of rank 1 would "
            f"save {saves(high):,}, and {goal:,.0f} were to be saved; lower pass.sparsity or choose more layers in pass.modules"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if saves(middle) >= goal else (middle + 1, high)
    return kept(float(thresholds[low]))


class LowRankLinear(Factorised):
    """A linear layer whose weight is ``wide`` times ``narrow``."""

    def __init__(self, old: nn.Linear, rank: int) -> None:
        super().__init__()
        like = {"device": old.weight.device, "dtype": old.weight.dtype}
        self.narrow = nn.Linear(old.in_features, rank, bias=False, **like)
        self.wide = nn.Linear(rank, old.out_features, bias=old.bias is not None, **like)

    def forward(self, input: Tensor) -> Tensor:
        """(..., n) to (..., m)."""
        output: Tensor = self.wide(self.narrow(input))
        return output


class LowRankLstm(Factorised):
    """An LSTM of one layer whose input matrix is that of ``lstm`` times ``narrow``."""

    def __init__(self, old: Lstm, rank: int) -> None:
        super().__init__()
        like = {"device": old.all_weights[0][0].device, "dtype": old.all_weights[0][0].dtype}
        self.narrow = nn.Linear(old.input_size, rank, bias=False, **like)
        self.lstm = Lstm(rank, old.hidden_size, batch_first=True, **like)

    def forward(self, input: Tensor, hx: States | None = None) -> tuple[Tensor, States]:
        """(B, T, K) to (B, T, H), and the last states."""
        output: tuple[Tensor, States] = self.lstm(self.narrow(input), hx)
        return output


class LowRank:
    """The transform: factors of these ranks in the place of layers, by their names."""

    def __init__(self, *, ranks: dict[str, Count]) -> None:
        self.ranks = ranks

    def __call__(self, model: SpeechModel) -> SpeechModel:
        """Raises UsageError if there is no layer of a name, or it cannot be factorised."""
        there = matrices_of(model)
        for name, rank in self.ranks.items():
            if name not in there:
                raise UsageError(f"ranks: the model has no layer {name} that can be factorised")
            old = model.get_submodule(name)
            made = LowRankLstm(old, rank) if isinstance(old, Lstm) else LowRankLinear(cast(nn.Linear, old), rank)
            model.set_submodule(name, made)
        return model


def matrices_of(model: SpeechModel) -> dict[str, Tensor]:
    """The weight (m, n) of every layer that can be factorised, by its name: linear layers, LSTMs of one layer.

    Not linear layers of the loss, which belong to training alone, nor the joiner's output layer, which the loss computes.
    """
    found = {}
    for name, module in model.named_modules():
        if type(module) is nn.Linear and not name.startswith("loss.") and name != "joiner.output":
            found[name] = module.weight.detach()
        if type(module) is Lstm and module.num_layers == 1 and not name.startswith("predictor."):
            found[name] = module.get_parameter("weight_ih_l0").detach()
    return found


class LowRankFactorisation:
    """The pass.

    Args:
        sparsity: fraction of the parameters in ``scope`` that are removed.
        scope: whose parameters are counted: the encoder's or all.
        modules: what is factorised: names of layers, or shell-like patterns of them.
        allocation: which matrices lose most: see ``importance``.
    """

    def __init__(self, *, sparsity: Fraction, scope: Scope, modules: list[str], allocation: Allocation) -> None:
        self.sparsity = sparsity
        self.scope = scope
        self.modules = modules
        self.allocation: Allocation = allocation

    def __call__(self, loaded: LoadedModel, batches: Batches) -> LoadedModel:
        """Raises UsageError if a pattern matches no layer, the model is quantised, or as many parameters cannot be saved."""
        refuse_quantized(loaded.model, "factorise the model that it was made of and quantise its factors")
        there = matrices_of(loaded.model)
        patterns, names = [(pattern, True) for pattern in self.modules], {name: [name] for name in there}
        chosen = settings_by_pattern(patterns, names, key="pass.modules", kind="layer that can be factorised")
        total = float(parameters(loaded.model, [], self.scope)({}))
        ranks = ranks_for({name: there[name] for name in chosen}, self.sparsity * total, self.allocation)
        node = {"_target_": f"{LowRank.__module__}.{LowRank.__name__}", "ranks": ranks}
        state = factorised(loaded.model, ranks)
        description = replace(loaded.description, transforms=[*loaded.description.transforms, node])
        model = build(node)(loaded.model)
        model.load_state_dict(state)
        return replace(loaded, model=model.eval(), description=description)


def factorised(model: SpeechModel, ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """The tensors of the model with factors of these ranks."""
    made, there = dict(model.state_dict()), matrices_of(model)
    for name, rank in ranks.items():
        wide, narrow = factors(there[name], rank)
        is_lstm = isinstance(model.get_submodule(name), Lstm)
        own = {key: made.pop(key) for key in list(made) if key.startswith(f"{name}.")}
        replaced, inner = ("weight_ih_l0", "lstm") if is_lstm else ("weight", "wide")
        made |= {f"{name}.{inner}.{key.removeprefix(f'{name}.')}": each for key, each in own.items()}
        made |= {f"{name}.narrow.weight": narrow, f"{name}.{inner}.{replaced}": wide}
    return made
