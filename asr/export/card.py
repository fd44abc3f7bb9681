"""The model card: README.md of an exported folder. Every figure in it was measured; what was not is named as missing."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.export.onnx_files import export_part, session_of
from asr.export.sherpa import CLIENT, NETWORKS, Fitting, streaming_encoder
from asr.training.processor import instruction_set

Result = tuple[str, str, Mapping[str, Any]]  # set, search, figures as fractions
ONE_SYMBOL = "greedy, one symbol per state"  # the client's search

SPEED_SECONDS = 10.0
SPEED_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says beside what can be seen in the files."""

    name: str
    checkpoint: str
    digests: Sequence[str]  # SHA-256 of the weights
    data: str
    licence: str | None
    transforms: Sequence[str] = ()  # names of what has changed its layers
    results: Sequence[Result] = ()
    checked: str | None = None  # what one symbol per state costs


def encoder_speed(folder: Path, parts: Fitting, suffix: str) -> float:
    """Seconds of one core per second of audio that the encoder takes with one utterance of 10 s; median of 5."""
    session = session_of(folder / f"encoder{suffix}")
    feed, times = _chunk_feed(parts) if parts.streaming else _whole_feed(parts)
    session.run(None, feed)
    seconds = []
    for _ in range(SPEED_REPEATS):
        began = time.thread_time()
        for _ in range(times):
            session.run(None, feed)
        seconds.append(time.thread_time() - began)
    return statistics.median(seconds) / SPEED_SECONDS


def _whole_feed(parts: Fitting) -> tuple[dict[str, Any], int]:
    """Inputs of the encoder, and how often it is run for 10 s."""
    frames = parts.features.mel_frames_of(round(SPEED_SECONDS * parts.features.sample_rate))
    return {"x": _noise(parts, frames), "x_lens": np.array([frames])}, 1


def _chunk_feed(parts: Fitting) -> tuple[dict[str, Any], int]:
    module = streaming_encoder(parts)
    attn, conv = (each.numpy() for each in module.start(1))
    feed = {"x": _noise(parts, module.mel_frames), "attn": attn, "conv": conv, "processed_lens": np.array([0])}
    shift_seconds = module.mel_frames * parts.features.frame_shift_ms / 1000
    return feed, round(SPEED_SECONDS / shift_seconds)


def _noise(parts: Fitting, frames: int) -> Any:
    return np.random.default_rng(0).standard_normal((1, frames, parts.features.num_mels)).astype(np.float32)


def card(folder: Path, parts: Fitting, facts: Facts) -> str:
    """The text of README.md."""
    model = parts.model
    count = sum(parameter.numel() for parameter in model.parameters())
    sections = [
        f"# {facts.name}",
        f"A transducer for speech recognition: {type(model.encoder).__name__} encoder, {type(model.predictor).__name__} "
        f"prediction network, {count / 1e6:.2f} million parameters, {model.vocabulary_size - 1} tokens and blank, "
        f"{parts.features.sample_rate} Hz. ONNX in the {_layout(parts)} layout of sherpa-onnx.",
        _table(("", ""), [
            ("data", facts.data),
            ("licence", facts.licence or "not given"),
            ("checkpoint", facts.checkpoint),
            ("SHA-256 of the weights", ", ".join(facts.digests)),
            *([("layers changed by", ", ".join(facts.transforms))] if facts.transforms else []),
            ("tokens read by the decoder", str(parts.context)),
            ("one symbol per state", facts.checked or "not checked"),
        ]),
        "## Word error rates",
        _results(facts),
        "## Size and speed",
        _sizes(folder, parts),
        f"Speed of the encoder: processor seconds per second of audio, one utterance of {SPEED_SECONDS:g} s, one thread, "
        f"instruction set {instruction_set()}, ONNX Runtime {export_part('onnxruntime').__version__}.",
        "## Use",
        _use(parts),
    ]  # fmt: skip
    return "\n\n".join(sections) + "\n"


def _layout(parts: Fitting) -> str:
    if not parts.streaming:
        return "stateless transducer"
    module = streaming_encoder(parts)
    seconds = module.mel_frames * parts.features.frame_shift_ms / 1000
    return f"online conformer (chunks of {seconds:g} s, {module.past} states before them seen)"


def _results(facts: Facts) -> str:
    rows = []
    for name, search, figures in facts.results:
        low, high = figures["wer_interval"]
        rate = f"{100 * figures['wer']:.2f} %"
        rows.append((name, search, rate, f"{100 * low:.2f} to {100 * high:.2f} %", str(figures["utterances"])))
    if not rows:
        return "This model has not been evaluated: `scripts/evaluate.py` measures them, an export after it writes them here."
    table = _table(("set", "search", "WER", "95 % interval", "utterances"), rows)
    return (
        f"{table}\n\nMeasured with the weights in PyTorch, in their precision. The client's search is {ONE_SYMBOL}; texts of that "
        "line are scored as they are, without normalisation. The int8 networks were not scored."
    )


def _sizes(folder: Path, parts: Fitting) -> str:
    rows = []
    for precision, suffix in (("fp32", ".onnx"), ("int8", ".int8.onnx")):
        sizes = [(folder / f"{name}{suffix}").stat().st_size / 2**20 for name in NETWORKS]
        speed = encoder_speed(folder, parts, suffix)
        rows.append((precision, *(f"{size:.2f} MiB" for size in sizes), f"{sum(sizes):.2f} MiB", f"{speed:.4f}"))
    return _table(("", *NETWORKS, "together", "speed"), rows)


def _use(parts: Fitting) -> str:
    if parts.streaming:
        return _use_of_streams()
    features = parts.features
    lines = [
        "    pip install sherpa-onnx soundfile",
        "    python transcribe.py a.wav b.flac            # --int8 for the small networks",
        "",
    ]
    if not features.whole_frames_only:
        lines += [
            "The features are sherpa-onnx's defaults, so that every client of it works:",
            "",
            "```python",
            "import sherpa_onnx",
            "",
            "recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(",
            '    encoder="encoder.onnx", decoder="decoder.onnx", joiner="joiner.onnx", tokens="tokens.txt",',
            f"    sample_rate={features.sample_rate}, feature_dim={features.num_mels},",
            ")",
            "```",
        ]
    else:
        lines.append(
            f"The features are Kaldi's defaults and not sherpa-onnx's: a client must be given what `{CLIENT}` holds, as "
            "`transcribe.py` does through `FeatureExtractorConfig`. `OfflineRecognizer.from_transducer`, and clients in other "
            "languages that do not set it, give wrong texts."
        )
    return "\n".join(lines)


def _use_of_streams() -> str:
    return (
        "    pip install sherpa-onnx soundfile\n"
        "    python transcribe.py a.wav b.flac            # --int8 for the small networks, --partial for texts that grow\n\n"
        f"Other clients make a `sherpa_onnx.OnlineRecognizer.from_transducer` with the settings of `{CLIENT}`, as `transcribe.py` "
        "does, and end a stream with `tail_seconds` of silence: a chunk is computed when the frame after it is there."
    )


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
