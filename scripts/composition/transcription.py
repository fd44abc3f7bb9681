"""The texts of audio files of any rate and number of channels."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.data.resampling import resampler
from asr.foreign.terminal import log_to_stderr, say, shown
from asr.parts import build
from asr.training.measures import Decode
from distributed.errors import UsageError
from scripts.composition.compose import compose, split_arguments
from scripts.composition.search import with_language_models
from scripts.composition.trained import Trained, load_trained

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Audio files, and overrides."""
    log_to_stderr()
    overrides, files = split_arguments(arguments)
    config = compose("transcribe", overrides)
    if not files:
        raise UsageError("no audio files given: python scripts/transcribe.py run=exp/my-run audio/*.flac")
    weights = None if config.weights is None else Path(config.weights)
    trained = load_trained(Path(config.run), config.checkpoint, config.threads, weights=weights)
    decode: Decode = build(config.decode)
    decode = with_language_models(decode, trained.model, trained.speech.tokenizer)
    decode.check(trained.recogniser)
    for start in range(0, len(files), config.unit_utterances):
        group = files[start : start + config.unit_utterances]
        for file, text in zip(group, transcribe(trained, decode, group), strict=True):
            say(f"{shown(file)}\t{shown(text)}")


def transcribe(trained: Trained, decode: Decode, files: Sequence[Path]) -> list[str]:
    """The texts of some files, decoded together."""
    features = [features_of(trained, file) for file in files]
    lengths = torch.tensor([len(each) for each in features])
    with torch.inference_mode():
        states, state_lengths = trained.recogniser.encode(
            pad_sequence(features, batch_first=True).to(next(trained.model.parameters()).dtype), lengths
        )
        found = decode(trained.recogniser, states, state_lengths)
    return [trained.speech.tokenizer.decode(hypothesis.tokens) for hypothesis in found]


def features_of(trained: Trained, file: Path) -> Tensor:
    """The model's input (T, F) for an audio file, converted to what the model was trained on."""
    features = trained.speech.features
    waveform = read_any(file, features.sample_rate)
    if features.frames_of(len(waveform)) == 0:
        raise UsageError(f"{file}: {len(waveform) / features.sample_rate:.3f} s is too short for one frame")
    return features.model_input(waveform)


def read_any(file: Path, sample_rate: int) -> Tensor:
    """(samples,) at ``sample_rate``: channels are averaged, other rates resampled."""
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file")
    try:
        samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError) as error:
        raise UsageError(f"{file}: cannot be read as audio ({error}); convert it to WAV or FLAC") from None
    if not np.isfinite(samples).all():
        raise UsageError(f"{file}: holds samples that are not finite numbers")
    if samples.shape[1] > 1:
        log.info("%s: averaging its %d channels", file, samples.shape[1])
    waveform = torch.from_numpy(samples.mean(axis=1))
    if rate != sample_rate:
        log.info("%s: resampling from %d to %d Hz", file, rate, sample_rate)
        waveform = resampler(rate, sample_rate)(waveform)
    return waveform
