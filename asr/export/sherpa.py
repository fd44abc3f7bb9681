"""A transducer in sherpa-onnx's stateless layout: which models fit, the files, and the record that its client reads.

    encoder.onnx  decoder.onnx  joiner.onnx     fp32; *.int8.onnx beside them
    tokens.txt                                  symbol and number per line; blank, the number 0, is <blk>
    client.json                                 what a client must set: sample rate, mel bins, filters, framing, scale

Checked against sherpa-onnx 2.0.1: https://k2-fsa.github.io/sherpa/onnx. Its greedy search emits at most one symbol per state.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from asr.data.features import INT16_SCALE, LOW_FREQUENCY_HZ, LogMel
from asr.data.sherpa_features import SherpaLogMel
from asr.data.tokenizer import Tokenizer
from asr.export.networks import EncoderNetwork, JoinerNetwork, LstmDecoder, StatelessDecoder
from asr.export.onnx_files import ExportError, Network, write_int8, write_network
from asr.models.predictor import LstmPredictor, StatelessPredictor
from asr.models.transducer import Transducer
from asr.runs.model_folder import LoadedModel

NETWORKS = ("encoder", "decoder", "joiner")
TOKENS = "tokens.txt"
CLIENT = "client.json"
BLANK_OF_CLIENT = "<blk>"
EXAMPLE_FRAMES = 53  # of the example that the exporter follows; of no influence on the file
FRAME_MS = {"frame_length_ms": 25.0, "frame_shift_ms": 10.0}  # which the client does not let one choose


@dataclass(frozen=True, slots=True)
class Fitting:
    """The parts of a model that fits the layout."""

    model: Transducer
    features: LogMel
    tokenizer: Tokenizer
    context: int  # symbols that the decoder reads


def fitting(loaded: LoadedModel, history: int) -> Fitting:
    """The parts of a model, in fp32 and evaluation mode, a copy where it was in fp64.

    Args:
        history: the context of an LSTM predictor.

    Raises:
        ExportError: it does not fit the layout; the message names the remedy.
    """
    model, features = loaded.model, loaded.features
    if not isinstance(model, Transducer) or features is None:
        kind = loaded.description.model["_target_"]
        raise ExportError(
            f"format=onnx is a transducer's layout, and this model is none ({kind}); train model=conformer_s"
        )
    described = loaded.description.features or {}
    if type(features) not in (LogMel, SherpaLogMel):
        raise ExportError(
            f"features._target_={described.get('_target_')}: the client has no such features; "
            "train with features._target_=asr.data.sherpa_features.SherpaLogMel"
        )
    if loaded.description.transforms:
        changes = ", ".join(str(node["_target_"]).rpartition(".")[2] for node in loaded.description.transforms)
        raise ExportError(
            f"a quantised model, or one that other transforms have changed ({changes}), has no export yet; "
            "export the run that it was made from"
        )
    for name, wanted in (*FRAME_MS.items(), ("dither", 0.0)):
        if getattr(features, name) != wanted:
            raise ExportError(
                f"features.{name}={getattr(features, name):g}: the client has {wanted:g}; train with features.{name}={wanted:g}"
            )
    if not isinstance(model.predictor, (StatelessPredictor, LstmPredictor)):
        raise ExportError(
            f"{type(model.predictor).__name__} has no place in the layout; train with model/predictor=stateless"
        )
    if len(set(loaded.tokenizer.symbols)) < loaded.tokenizer.vocabulary_size:
        raise ExportError(
            "two tokens are written alike, which tokens.txt cannot tell apart; train with tokenizer=sentencepiece"
        )
    context = model.predictor.context if isinstance(model.predictor, StatelessPredictor) else history
    single = (
        model if loaded.description.dtype == "float32" else copy.deepcopy(model).float()
    )  # the check decodes ``model``
    return Fitting(single.eval(), features, loaded.tokenizer, context)


def networks(parts: Fitting) -> Iterator[tuple[str, Network]]:
    """The three networks, by name."""
    model, any_size = parts.model, torch.export.Dim.DYNAMIC
    frames = torch.tensor([EXAMPLE_FRAMES, EXAMPLE_FRAMES // 2])
    yield "encoder", Network(
        EncoderNetwork(parts.features, model.encoder, model.joiner),
        (torch.randn(2, EXAMPLE_FRAMES, parts.features.num_mels), frames),
        ({0: any_size, 1: any_size}, {0: any_size}),
        ("x", "x_lens"), ("encoder_out", "encoder_out_lens"),
        {"model_type": "conformer", "version": "1", "comment": type(model.encoder).__name__},
    )  # fmt: skip
    predictor = model.predictor
    if isinstance(predictor, StatelessPredictor):
        decoder: torch.nn.Module = StatelessDecoder(predictor, model.joiner)
    else:
        assert isinstance(predictor, LstmPredictor)
        decoder = LstmDecoder(predictor, model.joiner, parts.context)
    start = torch.full((2, parts.context), -1)
    start[:, -1] = 0
    yield "decoder", Network(
        decoder, (start,), ({0: any_size},), ("y",), ("decoder_out",),
        {"vocab_size": model.vocabulary_size, "context_size": parts.context},
    )  # fmt: skip
    joint = torch.randn(2, model.joiner.dimension)
    yield "joiner", Network(
        JoinerNetwork(model.joiner), (joint, joint.clone()), ({0: any_size}, {0: any_size}),
        ("encoder_out", "decoder_out"), ("logit",), {"joiner_dim": model.joiner.dimension},
    )  # fmt: skip


def write_sherpa(parts: Fitting, folder: Path) -> None:
    """Write all files of the layout into ``folder``, which exists."""
    for name, network in networks(parts):
        write_network(network, folder / f"{name}.onnx")
        write_int8(folder / f"{name}.onnx", folder / f"{name}.int8.onnx")
    symbols = [BLANK_OF_CLIENT, *parts.tokenizer.symbols[1:]]
    lines = [f"{symbol} {number}\n" for number, symbol in enumerate(symbols)]
    (folder / TOKENS).write_text("".join(lines), encoding="utf-8")
    (folder / CLIENT).write_text(json.dumps(client_settings(parts.features), indent=2) + "\n", encoding="utf-8")


def client_settings(features: LogMel) -> dict[str, object]:
    """Arguments of sherpa-onnx's FeatureExtractorConfig. Those of SherpaLogMel are its defaults."""
    return {
        "sampling_rate": features.sample_rate,
        "feature_dim": features.num_mels,
        "low_freq": LOW_FREQUENCY_HZ,
        "high_freq": features.high_frequency_hz,
        "normalize_samples": features.full_scale != INT16_SCALE,
        "snip_edges": features.whole_frames_only,
    }
