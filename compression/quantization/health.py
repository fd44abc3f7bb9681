"""What a model would lose if it were quantised now, at evaluations: a run can become harder to quantise as it trains.

A copy of the model, under gossip of the consensus, is quantised without training (compression/quantization/post_training.py):
bounds from the first batches of the training split, then the loss of the first batches of dev beside that of the copy in full
precision. What fails first is a value far larger than the others of its tensor, for which all other values share few codes:

    outlier ratio of a tensor  =  max |x| / sqrt(mean x^2)          N values drawn from a Gaussian: about sqrt(2 ln N)

The run's own weights are only read.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import islice
from typing import Any

from torch import Tensor, nn

from asr.data.batch import Batch
from asr.hooks.measurement import Measurement
from asr.models.auxiliary import NAME
from asr.models.speech_model import SpeechModel
from asr.parts import build
from asr.runs.progress import Progress
from asr.training.hook import Run
from asr.training.inference import Inference
from compression.pruning.masks import Masks
from compression.quantization.activations import ActivationKind, HiddenKind
from compression.quantization.calibration import calibrate, run_alone
from compression.quantization.transform import LOSS, refuse_quantized, transform_node
from compression.quantization.twins import TWINS
from compression.quantization.weights import Grouping
from compression.scheme import named
from distributed.errors import UsageError
from distributed.ranges import Count, Positive

log = logging.getLogger(__name__)

EXACT = "fp32"  # the word for the copy that is not quantised
KEY = "hooks.quantization_health"


def bare_copy(model: SpeechModel) -> SpeechModel:
    """A copy of a model's modules and weights, without what a run has attached to them: functions and auxiliary modules."""
    memo: dict[int, Any] = {
        id(attached): type(attached)()
        for module in model.modules()
        for attached in (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
    }
    if hasattr(model, NAME):
        memo[id(getattr(model, NAME))] = nn.ModuleDict()
    return deepcopy(model, memo)


def refuse_masked(model: SpeechModel) -> None:
    """Raise UsageError if a model computes with masks: a copy would keep a part of them, and be of no model that there is."""
    if any(isinstance(each, Masks) for each in model.modules()):
        raise UsageError(
            "structured_pruning masks this model, and what removal leaves of it can be measured only after; leave one of the "
            "two hooks out"
        )


def mean_loss(inference: Inference[SpeechModel], batches: Sequence[Batch]) -> float:
    """The loss per utterance."""
    sums = [(inference.ask(each, lambda moved: float(inference.model(moved).total)), each.weight) for each in batches]
    return sum(loss for loss, _ in sums) / max(sum(weight for _, weight in sums), 1.0)


def outlier_ratio(values: Tensor) -> float:
    """max |x| / sqrt(mean x^2); 0 of nothing but zeros."""
    values = values.detach().float()
    mean_square = float(values.square().mean())
    return float(values.abs().max()) / mean_square**0.5 if mean_square > 0 else 0.0


def weight_outliers(model: SpeechModel) -> dict[str, float]:
    """The outlier ratio of each matrix of the layers that can be quantised, by its name."""
    return {
        f"{name}.{own}": outlier_ratio(parameter)
        for name, layer in _layers(model).items()
        for own, parameter in layer.named_parameters(recurse=False)
        if parameter.dim() > 1
    }


def input_outliers(inference: Inference[SpeechModel], batches: Sequence[Batch]) -> dict[str, float]:
    """The outlier ratio of what each layer reads on some batches, by its name; the largest of all utterances."""
    found: dict[str, float] = defaultdict(float)
    with _noting(_layers(inference.model), found):
        for batch in batches:
            inference.ask(batch, lambda moved: run_alone(inference.model, moved))
    return dict(found)


@contextmanager
def _noting(layers: Mapping[str, nn.Module], found: dict[str, float]) -> Iterator[None]:
    """Within: a layer notes the ratio of its input; tokens have none."""

    def noting(name: str) -> Any:
        def note(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments[0].is_floating_point() and arguments[0].numel():
                found[name] = max(found[name], outlier_ratio(arguments[0]))

        return note

    handles = [layer.register_forward_pre_hook(noting(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for each in handles:
            each.remove()


def _layers(model: SpeechModel) -> dict[str, nn.Module]:
    """The layers that have a quantised twin, but for those of the loss."""
    return {
        name: each for name, each in model.named_modules() if type(each) in TWINS and not f"{name}.".startswith(LOSS)
    }


class QuantizationHealth(Measurement):
    """Logs the losses, and warns when one passes the limit ``warn_at``: the excess over that of full precision."""

    def __init__(
        self,
        *,
        every: Count,
        schemes: dict[str, list[dict[str, Any]]],
        groups: Grouping,
        inputs: ActivationKind,
        hidden: HiddenKind,
        batches: Count,
        calibration_batches: Count,
        split: str,
        warn_at: Positive,
        worst: Count,
    ) -> None:
        super().__init__(every=every)
        if EXACT in schemes:
            raise UsageError(f"{KEY}.schemes.{EXACT}: is the name of what is not quantised; choose another one")
        self.nodes = {
            name: transform_node(
                scheme, f"{KEY}.schemes.{name}", bits=8, weights="max", groups=groups, inputs=inputs, hidden=hidden
            )
            for name, scheme in schemes.items()
        }
        self.count = batches
        self.calibration_count = calibration_batches
        self.split = split
        self.warn_at = warn_at
        self.worst = worst
        self.batches: list[Batch] = []  # kept on the host, as those of the calibration
        self.calibration: list[Batch] = []
        self.above: set[str] = set()  # the schemes that were above the limit at the last measurement

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Raises UsageError if the model is quantised already or masked, or a scheme does not fit it."""
        super().on_fit_start(run, resumed)
        with named(f"{KEY}: "):
            refuse_quantized(run.model, "leave this hook out: the loss of the run is the one of the quantised model")
            refuse_masked(run.model)
        for name, node in self.nodes.items():
            with named(f"{KEY}.schemes.{name}: "):
                build(node)(bare_copy(run.model))

    def measure(self, run: Run, progress: Progress, metrics: Mapping[str, float]) -> dict[str, float]:
        """The losses and the largest ratios, the same on every learner."""
        if not self.batches:
            self.batches = _first(run, self.split, self.count)
            self.calibration = _first(run, "train", self.calibration_count)
        exact = Inference(bare_copy(run.model), run.world.device, run.precision)
        losses = {EXACT: mean_loss(exact, self.batches)}
        if not math.isfinite(losses[EXACT]):  # weights that no range can be calibrated of; training sees to them
            return {f"quantization_health/{EXACT}_loss": losses[EXACT]}
        ratios = {"weights": weight_outliers(exact.model), "inputs": input_outliers(exact, self.calibration)}
        losses |= {name: self._quantized_loss(name, run) for name in self.nodes}
        self._warn(losses, ratios, progress, aloud=run.world.rank == 0)
        found = {f"quantization_health/{name}_loss": loss for name, loss in losses.items()}
        return found | {
            f"quantization_health/largest_outlier_of_{kind}": max(each.values(), default=0.0)
            for kind, each in ratios.items()
        }

    def _quantized_loss(self, name: str, run: Run) -> float:
        inference = Inference(build(self.nodes[name])(bare_copy(run.model)), run.world.device, run.precision)
        with named(f"{KEY}.schemes.{name}: "):
            calibrate(inference, self.calibration, len(self.calibration))
        return mean_loss(inference, self.batches)

    def _warn(
        self,
        losses: Mapping[str, float],
        ratios: Mapping[str, Mapping[str, float]],
        progress: Progress,
        *,
        aloud: bool,
    ) -> None:
        """Log a warning for each scheme that has come above the limit, with the layers that are the likely reason."""
        limit = losses[EXACT] + self.warn_at * abs(losses[EXACT])
        above = {name for name, loss in losses.items() if not loss <= limit}
        worst = {
            kind: ", ".join(f"{name} {ratio:.0f}" for name, ratio in _largest(each, self.worst))
            for kind, each in ratios.items()
        }
        for name in sorted(above - self.above) if aloud else ():
            log.warning(
                "quantization_health: at step %d the loss on %s is %.3f under %s and %.3f in full precision; largest "
                "outlier ratios: weights of %s; inputs of %s",
                progress.step, self.split, losses[name], name, losses[EXACT], worst["weights"], worst["inputs"],
            )  # fmt: skip
        self.above = above

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"above": sorted(self.above)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.above = set(state["above"])


def _first(run: Run, split: str, count: int) -> list[Batch]:
    """The first batches of a split that have utterances, the same at every evaluation."""
    return list(islice((each for each in run.batches(split, run.seed) if each.utterance_ids), count))


def _largest(ratios: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    return sorted(ratios.items(), key=lambda each: -each[1])[:count]
