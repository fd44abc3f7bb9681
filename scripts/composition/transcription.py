"""The texts of audio files of any rate and number of channels."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr.data.audio import BadUtterance
from asr.data.audio_files import AudioFiles, find_audio
from asr.data.plan import Budgets
from asr.foreign.terminal import log_to_stderr, say, shown
from asr.parts import build
from asr.training.evaluation import decode_batches
from asr.training.inference import load
from asr.training.measures import Decode
from distributed.errors import UsageError
from scripts.composition.compose import compose, split_arguments
from scripts.composition.search import with_language_models
from scripts.composition.trained import Trained, load_configured

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Transcribe the audio files or folders given in ``arguments``; print a line for each file as soon as it is done.

    Raises:
        UsageError: at the end, where some could not be transcribed, each of which was named when it was met.
    """
    log_to_stderr()
    overrides, paths = split_arguments(arguments)
    config = compose("transcribe", overrides)
    if not paths:
        raise UsageError("no audio files given: python scripts/transcribe.py run=exp/my-run audio/*.flac")
    trained = load_configured(config)
    decode: Decode = with_language_models(build(config.decode), trained.model, trained.speech.tokenizer)
    decode.check(trained.recogniser)
    files, bad = find_audio(paths)
    given = len(files) + len(bad)
    for each in bad:
        log_not_transcribed(each)
    for file, text in transcribe(trained, decode, files, config.unit_utterances, bad):
        say(f"{shown(file)}\t{shown(text)}")
    if bad:
        raise UsageError(f"{len(bad)} of {given} files or folders could not be transcribed; each is named above")


def log_not_transcribed(bad: BadUtterance) -> None:
    """Log a file that cannot be transcribed, with the reason."""
    log.warning("not transcribed: %s: %s", bad.file, bad.reason)


def transcribe(
    trained: Trained, decode: Decode, files: Sequence[Path], unit_utterances: int, bad: list[BadUtterance]
) -> Iterator[tuple[str, str]]:
    """Path and text of each file, unit by unit; unusable files are logged and appended to ``bad``."""

    def refused(each: BadUtterance) -> None:
        bad.append(each)
        log_not_transcribed(each)

    audio, limits = AudioFiles(files, trained.speech.features), trained.config.batch
    units = audio.units(Budgets(unit_utterances, limits.max_frames, limits.max_cells))
    inference = trained.inference()
    for batch, found in decode_batches(inference, load(audio, units, on_refused=refused), decode):
        texts = (trained.speech.tokenizer.decode(hypothesis.tokens) for hypothesis in found)
        yield from zip(batch.utterance_ids, texts, strict=True)
    log.info("%s", inference.statistics)
