"""SIMULATED time of a transducer's matrix products with 16, 8 and 4 bits on processors that multiply 4-bit numbers: a roofline.

    python scripts/bench/roofline.py --json docs/results/roofline.json

Nothing is run. A launch of a product takes the longer of its multiplications at the processor's peak rate and its traffic at
the bandwidth of its memory: codes of weights and inputs in their bits, sums out in 16. The weights of an LSTM stay on the chip
from step to step if they fit. Left out is whatever is no matrix product, and the time of a launch itself, of which an LSTM has one a step:
both would bring the ratios nearer to one. Peak rates and bandwidths are those of the makers' data sheets.

The model is model=ibm_rnnt: the encoder over utterances of 200 states, and the search, in which every hypothesis reads a token and
has its scores computed. ``rows`` are those of a launch.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.models.recurrence import Lstm
from asr.models.speech_model import SpeechModel
from asr.models.transducer import Transducer
from asr.parts import build
from asr.runs.misfit import built_on_meta
from scripts.bench.quantization import SIZES
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.startup import run_main

STATES = 200
BITS = (16, 8, 4)


@dataclass(frozen=True, slots=True)
class Processor:
    """What a data sheet says."""

    name: str
    operations: Mapping[int, float]  # a second, by bits; a multiplication and its addition are two
    bandwidth: float  # bytes a second
    chip: float  # bytes of the largest cache


@dataclass(frozen=True, slots=True)
class Product:
    """Launches of one product, which follow each other: (rows, inputs) times (inputs, outputs)."""

    rows: int
    inputs: int
    outputs: int
    launches: int = 1


PROCESSORS = (
    Processor("NVIDIA T4", {16: 65e12, 8: 130e12, 4: 260e12}, 320e9, 4e6),
    Processor("NVIDIA A100 40 GB", {16: 312e12, 8: 624e12, 4: 1248e12}, 1555e9, 40e6),
)


def seconds(product: Product, processor: Processor, bits: int) -> float:
    """The roofline's time of all launches."""
    weights = product.inputs * product.outputs * bits / 8
    moved = product.rows * (product.inputs * bits / 8 + 2 * product.outputs)
    multiplied = 2.0 * product.rows * product.inputs * product.outputs / processor.operations[bits]
    first = max(multiplied, (weights + moved) / processor.bandwidth)
    stays = weights <= processor.chip
    later = max(multiplied, (moved if stays else weights + moved) / processor.bandwidth)
    return first + (product.launches - 1) * later


def encoder_products(model: Transducer, batch: int, states: int) -> list[Product]:
    """The products of the encoder's LSTMs: all inputs at once, then a step after the other."""
    found = []
    for lstm in (each for each in model.encoder.modules() if isinstance(each, Lstm)):
        found.append(Product(batch * states, lstm.input_size, 4 * lstm.hidden_size))
        found.append(Product(batch, lstm.hidden_size, 4 * lstm.hidden_size, states))
    return found


def search_products(model: Transducer, hypotheses: int) -> list[Product]:
    """The products of one step of a search: every hypothesis reads a token and has its scores computed."""
    joiner = model.joiner
    found = [
        Product(hypotheses, inputs, 4 * lstm.hidden_size)
        for lstm in model.predictor.modules()
        if isinstance(lstm, Lstm)
        for inputs in (lstm.input_size, lstm.hidden_size)
    ]
    linear = (joiner.project_predictor, joiner.output)
    return [*found, *(Product(hypotheses, each.in_features, each.out_features) for each in linear)]


def rows_of(model: Transducer) -> list[dict[str, Any]]:
    """A row for each processor, part and number of rows."""
    parts = [(f"encoder, {batch} utterances", encoder_products(model, batch, STATES)) for batch in (1, 8, 64)]
    parts += [(f"step of the search, {beam} hypotheses", search_products(model, beam)) for beam in (1, 16)]
    found = []
    for processor in PROCESSORS:
        for part, products in parts:
            times = {bits: sum(seconds(each, processor, bits) for each in products) for bits in BITS}
            ratios = {f"ratio_{bits}": times[16] / times[bits] for bits in BITS[1:]}
            micro = {f"microseconds_{bits}": 1e6 * each for bits, each in times.items()}
            found.append({"processor": processor.name, "part": part, "simulated": True, **micro, **ratios})
    return found


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    rows = rows_of(ibm_rnnt())
    table(rows)
    if options.json is not None:
        figures = {f"simulated_int4_over_fp16/{row['processor']}/{row['part']}": row["ratio_4"] for row in rows}
        save_figures(options.json, figures, rows, simulated=True)


def ibm_rnnt() -> Transducer:
    """The sizes of model=ibm_rnnt, without memory for its weights."""
    config = compose("train", ["model=ibm_rnnt"])

    def make() -> SpeechModel:
        made: SpeechModel = build(config.model, **SIZES)
        return made

    model = built_on_meta(make)
    assert isinstance(model, Transducer)
    return model


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows; all of it is simulated."""
    print("| simulated | part | 16 bits | 8 bits | 4 bits | 16 over 8 | 16 over 4 |\n|---|---|---|---|---|---|---|")
    for row in rows:
        times = " | ".join(f"{row[f'microseconds_{bits}']:.1f} us" for bits in BITS)
        print(f"| {row['processor']} | {row['part']} | {times} | {row['ratio_8']:.2f} | {row['ratio_4']:.2f} |")


if __name__ == "__main__":
    run_main(main)
