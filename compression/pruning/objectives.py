"""What pruning counts of a model: its parameters, its operations, or milliseconds that were measured on a processor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asr.models.encoder import Encoder
from asr.models.speech_model import SpeechModel
from compression.pruning.costs import Cost, Extent, Scope, operations, parameters
from compression.pruning.latency import Latency, read_tables
from compression.pruning.parts import parts_of
from compression.pruning.units import Site
from distributed.errors import UsageError

Objective = Literal["parameters", "flops", "milliseconds"]


@dataclass(frozen=True, slots=True)
class Counted:
    """The settings of a cost.

    Args:
        latency: the file that scripts/bench/latency.py has written, of milliseconds.
        extent: the utterance whose operations are counted.
        key: prefix of the settings that errors name.

    Raises:
        UsageError: milliseconds without a file, or of more than the encoder.
    """

    objective: Objective
    scope: Scope
    latency: Path | None
    extent: Extent
    key: str

    def __post_init__(self) -> None:
        if self.objective == "milliseconds" and (self.latency is None or self.scope != "encoder"):
            raise UsageError(
                f"{self.key}objective=milliseconds counts the encoder and needs what was measured on a processor: set "
                f"{self.key}scope=encoder and {self.key}latency to a file of scripts/bench/latency.py"
            )

    def cost(self, model: SpeechModel, found: Sequence[Site]) -> Cost:
        """The cost of numbers of units at sites.

        Raises:
            UsageError: milliseconds of a model without encoder, or the table is of another model.
        """
        if self.objective == "parameters":
            return parameters(model, found, self.scope)
        if self.objective == "flops":
            return operations(model, found, self.scope, self.extent)
        encoder = getattr(model, "encoder", None)
        if not isinstance(encoder, Encoder):
            raise UsageError("objective=milliseconds: this model has no encoder; choose parameters")
        assert self.latency is not None
        return Latency(parts_of(encoder, found), read_tables(self.latency))
