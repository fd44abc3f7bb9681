"""A transducer in sherpa-onnx's stateless layout: which models fit, the files, and the record that its client reads.

    encoder.onnx  decoder.onnx  joiner.onnx     fp32; *.int8.onnx beside them
    tokens.txt                                  symbol and number per line; blank, the number 0, is <blk>
    client.json                                 what a client must set: sample rate, mel bins, filters, framing, scale

A chunk-wise Conformer may also be written for streams, as its online layout `conformer`: the encoder then computes a chunk.
Checked against sherpa-onnx 2.0.1: https://k2-fsa.github.io/sherpa/onnx. Its greedy search emits at most one symbol per state.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from asr.data.feature_stream import refuse_whole_only
from asr.data.features import INT16_SCALE, LOW_FREQUENCY_HZ, LogMel
from asr.data.sherpa_features import SherpaLogMel
from asr.data.tokenizer import Tokenizer
from asr.export.networks import EncoderNetwork, JoinerNetwork, LstmDecoder, StatelessDecoder
from asr.export.onnx_files import ExportError, Network, write_int8, write_network
from asr.export.streaming_encoder import StreamingEncoder
from asr.models.predictor import LstmPredictor, StatelessPredictor
from asr.models.streaming import chunked
from asr.models.transducer import Transducer
from asr.runs.model_folder import LoadedModel

NETWORKS = ("encoder", "decoder", "joiner")
TOKENS = "tokens.txt"
CLIENT = "client.json"
BLANK_OF_CLIENT = "<blk>"
ANY = torch.export.Dim.DYNAMIC
EXAMPLE_FRAMES = 53  # of the example that the exporter follows; of no influence on the file
FRAME_MS = {"frame_length_ms": 25.0, "frame_shift_ms": 10.0}  # which the client does not let one choose


@dataclass(frozen=True, slots=True)
class Fitting:
    """The parts of a model that fits the layout."""

    model: Transducer
    features: LogMel
    tokenizer: Tokenizer
    context: int  # symbols that the decoder reads
    streaming: bool = False  # whether the encoder computes a chunk at a time


def fitting(loaded: LoadedModel, history: int, *, streaming: bool = False) -> Fitting:
    """The parts of a model, in fp32 and evaluation mode, a copy where it was in fp64.

    Args:
        history: the context of an LSTM predictor.
        streaming: for streams.

    Raises:
        UsageError: it does not fit the layout; the message names the remedy.
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
    if streaming:
        _refuse_for_streams(model, features)
    context = model.predictor.context if isinstance(model.predictor, StatelessPredictor) else history
    single = (
        model if loaded.description.dtype == "float32" else copy.deepcopy(model).float()
    )  # the check decodes ``model``
    return Fitting(single.eval(), features, loaded.tokenizer, context, streaming)


def _refuse_for_streams(model: Transducer, features: LogMel) -> None:
    chunked(model.encoder)
    refuse_whole_only(features)
    if features.deltas:
        raise ExportError(
            f"features.deltas={features.deltas}: deltas see frames after their own, which the client's chunks do not hold; "
            "train with features.deltas=0"
        )


def networks(parts: Fitting) -> Iterator[tuple[str, Network]]:
    """The three networks, by name."""
    yield "encoder", _chunk_encoder(parts) if parts.streaming else _encoder(parts)
    yield "decoder", _decoder(parts)
    model = parts.model
    joint = torch.randn(2, model.joiner.dimension)
    yield "joiner", Network(
        JoinerNetwork(model.joiner), (joint, joint.clone()), ({0: ANY}, {0: ANY}),
        ("encoder_out", "decoder_out"), ("logit",), {"joiner_dim": model.joiner.dimension},
    )  # fmt: skip


def _encoder(parts: Fitting) -> Network:
    """The encoder of whole utterances."""
    frames = torch.tensor([EXAMPLE_FRAMES, EXAMPLE_FRAMES // 2])
    return Network(
        EncoderNetwork(parts.features, parts.model.encoder, parts.model.joiner),
        (torch.randn(2, EXAMPLE_FRAMES, parts.features.num_mels), frames),
        ({0: ANY, 1: ANY}, {0: ANY}),
        ("x", "x_lens"), ("encoder_out", "encoder_out_lens"),
        {"model_type": "conformer", "version": "1", "comment": type(parts.model.encoder).__name__},
    )  # fmt: skip


def streaming_encoder(parts: Fitting) -> StreamingEncoder:
    """The encoder of chunks."""
    return StreamingEncoder(parts.features, chunked(parts.model.encoder), parts.model.joiner)


def _chunk_encoder(parts: Fitting) -> Network:
    module = streaming_encoder(parts)
    attn, conv = module.start(2)
    return Network(
        module,
        (torch.randn(2, module.mel_frames, parts.features.num_mels), attn, conv, torch.zeros(2, dtype=torch.int64)),
        ({0: ANY}, {2: ANY}, {2: ANY}, {0: ANY}),
        ("x", "attn", "conv", "processed_lens"), ("encoder_out", "new_attn", "new_conv"),
        {
            "model_type": "conformer", "version": "1", "num_encoder_layers": len(attn), "T": module.mel_frames,
            "decode_chunk_len": module.mel_frames, "left_context": module.attention_states, "encoder_dim": module.width,
            "pad_length": 0, "cnn_module_kernel": module.kernel,
        },
    )  # fmt: skip


def _decoder(parts: Fitting) -> Network:
    predictor, joiner = parts.model.predictor, parts.model.joiner
    if isinstance(predictor, StatelessPredictor):
        decoder: torch.nn.Module = StatelessDecoder(predictor, joiner)
    else:
        assert isinstance(predictor, LstmPredictor)
        decoder = LstmDecoder(predictor, joiner, parts.context)
    start = torch.full((2, parts.context), -1)
    start[:, -1] = 0
    return Network(
        decoder, (start,), ({0: ANY},), ("y",), ("decoder_out",),
        {"vocab_size": parts.model.vocabulary_size, "context_size": parts.context},
    )  # fmt: skip


def write_sherpa(parts: Fitting, folder: Path, on_codes: Fitting | None = None) -> None:
    """Write all files of the layout into ``folder``, which exists.

    ``on_codes``: the same model with products in whole numbers, where it has such layers; the int8 files are made of it.
    """
    for name, network in networks(parts):
        write_network(network, folder / f"{name}.onnx")
    for name, network in [] if on_codes is None else networks(on_codes):
        write_network(network, folder / f"{name}.int8.onnx")
    for name in NETWORKS:
        target = folder / f"{name}.int8.onnx"
        write_int8(folder / f"{name}.onnx" if on_codes is None else target, target)
    symbols = [BLANK_OF_CLIENT, *parts.tokenizer.symbols[1:]]
    lines = [f"{symbol} {number}\n" for number, symbol in enumerate(symbols)]
    (folder / TOKENS).write_text("".join(lines), encoding="utf-8")
    settings = client_settings(parts.features)
    if parts.streaming:  # of silence at the end, for the client computes a chunk when the frame after it has been heard
        settings["tail_seconds"] = (streaming_encoder(parts).mel_frames + 2) * FRAME_MS["frame_shift_ms"] / 1000
    (folder / CLIENT).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


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
