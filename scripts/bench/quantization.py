"""Quantised training against training: forward and backward of a layer, and of a whole model, with its twins and without.

    python scripts/bench/quantization.py --model --json docs/results/quantization.json

The layer is one of the IBM encoder: bidirectional, 1280 inputs, 640 cells a direction, 8 sequences of 200 steps; with
``--model`` also the encoder, and the whole model=ibm_rnnt of 8 utterances of 200 states and 40 tokens, loss included. Both
versions are run in turn in one process on one thread; times are medians of its processor time. Weights are quantised in
every step, by SAWB+ per gate and 4 bits, the hidden states with the bound 1, the first input with learned bounds. The layers of
Brevitas and AIMET are measured beside ours where they can be imported (scripts/bench/qat_contenders.py).
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.models.lstm import BidirectionalLstm
from asr.models.speech_model import SpeechModel
from asr.models.transducer import Transducer
from asr.parts import build
from asr.training.precision import choose_matmul, flush_denormals
from compression.quantization.activations import LearnedBounds
from compression.quantization.hook import QuantizationAwareTraining
from scripts.bench.qat_contenders import available
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

BATCH, STEPS, TOKENS = 8, 200, 40
QUICK_STEPS = 20
CELLS = 640  # of a direction
RANGE = 4.0  # of features of unit variance
SIZES = {
    "vocabulary_size": 46,
    "feature_dimension": 120,
}  # the characters and features of the paper, as conf/model/ibm_rnnt.yaml says


@dataclass(frozen=True, slots=True)
class Contest:
    """A part of the model in both versions, and what a step of it is."""

    name: str
    plain: nn.Module
    quantized: nn.Module
    step: Callable[[nn.Module], None]
    others: Mapping[str, Callable[[], None]] = field(default_factory=dict)  # a step of other libraries


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--model", action="store_true", help="also the encoder and the whole model=ibm_rnnt: minutes")
    parser.add_argument("--quick", action="store_true", help="20 steps in place of 200, in less than a minute")
    parser.add_argument("--rounds", type=int, default=None, help="measurements of each version, in turn")
    options = parser.parse_args(arguments)
    flush_denormals()
    torch.set_num_threads(1)
    print(choose_matmul("auto"))
    made_with = environment()
    steps, rounds = (QUICK_STEPS, 3) if options.quick else (STEPS, 9)
    contests = contests_of(*models(), steps)
    rows = [measure(contest, options.rounds or rounds) for contest in (contests if options.model else contests[:1])]
    table(rows)
    if options.json is not None:
        save_figures(options.json, figures(rows), rows, made_with)


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows; other libraries' steps as those of quantised layers."""
    print("| training step | quantised, s | not, s | ratio |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['part']} | {row['quantised_s']:.3f} | {row['plain_s']:.3f} | {row['ratio']:.3f} |")
        for name, seconds in row["others_s"].items():
            print(f"| {row['part']}, {name} | {seconds:.3f} | {row['plain_s']:.3f} | {seconds / row['plain_s']:.3f} |")


def models() -> tuple[SpeechModel, SpeechModel]:
    """model=ibm_rnnt as it is, and with the twins of hooks=[qat_int4], in training mode; the same weights."""
    torch.manual_seed(0)
    config = compose("train", ["model=ibm_rnnt", "hooks=[qat_int4]", "trainer.precision=fp32"])
    plain: SpeechModel = build(config.model, **SIZES)
    hook: QuantizationAwareTraining = build(config.hooks.qat_int4)
    (node,) = hook.transforms()
    quantized: SpeechModel = build(node)(copy.deepcopy(plain))
    for each in quantized.modules():
        if isinstance(each, LearnedBounds):
            each.set_bounds(-RANGE, RANGE)
    return plain.train(), quantized.train()


def contests_of(plain: SpeechModel, quantized: SpeechModel, steps: int) -> list[Contest]:
    """The second layer, the encoder, and the model."""
    assert isinstance(plain, Transducer)
    assert isinstance(quantized, Transducer)
    encoders = plain.encoder, quantized.encoder
    assert all(isinstance(each, BidirectionalLstm) for each in encoders)
    batch = random_batch(steps, plain.subsampling)
    x_BSD = torch.randn(BATCH, steps, plain.encoder.dimension).requires_grad_()
    found, missing = available(plain.encoder.dimension, CELLS, x_BSD.detach()[:, :QUICK_STEPS])
    for name, reason in missing.items():
        print(f"not measured: {name} ({reason})")
    order_N = torch.arange(BATCH * steps)

    def layer_step(layer: nn.Module) -> None:
        backward(layer(x_BSD, order_N))

    def encoder_step(encoder: nn.Module) -> None:
        backward(encoder(batch.features, batch.feature_lengths)[0])

    def model_step(model: nn.Module) -> None:
        backward(model(batch).total)

    others = {name: partial(lstm_step, lstm, x_BSD) for name, lstm in found.items()}
    return [
        Contest("layer", encoders[0].layers[1], encoders[1].layers[1], layer_step, others),
        Contest("encoder", *encoders, encoder_step),
        Contest("model", plain, quantized, model_step),
    ]


def lstm_step(lstm: nn.Module, x_BSD: Tensor) -> None:
    """Forward and backward of a library's LSTM."""
    lstm.zero_grad(set_to_none=False)
    backward(lstm(x_BSD)[0])


def random_batch(steps: int, subsampling: int) -> Batch:
    """Utterances of full length: noise, and random tokens."""
    targets_BU = torch.randint(1, SIZES["vocabulary_size"], (BATCH, TOKENS))
    return Batch(
        utterance_ids=[str(row) for row in range(BATCH)],
        features=torch.randn(BATCH, steps * subsampling, SIZES["feature_dimension"]),
        feature_lengths=torch.full((BATCH,), steps * subsampling),
        targets=targets_BU,
        target_lengths=torch.full((BATCH,), TOKENS),
        predictor_inputs=targets_BU,
        weight=float(BATCH),
    )


def backward(values: Tensor) -> None:
    """Backward from the sum."""
    values.sum().backward()


def measure(contest: Contest, rounds: int) -> dict[str, Any]:
    """Both versions in turn, after a round that is not counted."""

    def own(module: nn.Module) -> None:
        module.zero_grad(set_to_none=False)
        contest.step(module)

    steps: dict[str, Callable[[], None]] = {
        "quantised": partial(own, contest.quantized),
        "plain": partial(own, contest.plain),
        **contest.others,
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for place in range(rounds + 1):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if place > 0:
                seconds[name].append(time.process_time() - started)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    quantised, plain = middle.pop("quantised"), middle.pop("plain")
    return {
        "part": contest.name,
        "quantised_s": quantised,
        "plain_s": plain,
        "ratio": quantised / plain,
        "others_s": middle,
        "rounds": rounds,
    }


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The ratio of the layer, and of the larger parts under names of their own."""
    found = {f"qat_step_ratio{'' if row['part'] == 'layer' else '/' + row['part']}": row["ratio"] for row in rows}
    others = {name: each / row["plain_s"] for row in rows for name, each in row["others_s"].items()}
    return found | {f"qat_step_ratio/{name}": ratio for name, ratio in others.items()}


if __name__ == "__main__":
    run_main(main)
