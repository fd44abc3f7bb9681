"""The command line around ``asr.recogniser``: which recordings, in which form results are written, where."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from asr.data.audio_files import find_audio
from asr.data.audio_inputs import Audio
from asr.data.audio_streams import Pcm
from asr.data.windows import Windows
from asr.decoding.transcript import Transcript, json_line, subtitles, text_line
from asr.foreign.terminal import log_to_stderr, say
from asr.parts import build
from asr.recogniser import Transcriber
from distributed.errors import UsageError
from scripts.composition.compose import compose, split_arguments
from scripts.composition.search import with_language_models
from scripts.composition.streaming import check_streamable, log_not_transcribed, stream_recordings
from scripts.composition.trained import load_configured

SUFFIX = {"text": ".txt", "json": ".json", "srt": ".srt"}
STDIN = "-"

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Transcribe what ``arguments`` name; write each result as soon as it is known.

    Raises:
        UsageError: at the end, where some could not be transcribed, each of which was named when it was met.
    """
    log_to_stderr()
    overrides, paths = split_arguments([each for each in arguments if each != STDIN])
    config = compose("transcribe", overrides)
    if not paths and STDIN not in arguments:
        raise UsageError("no audio files given: python scripts/transcribe.py run=exp/my-run audio/*.flac")
    if config.stream:
        check_streamable(config)
    elif config.pace != "fast":
        raise UsageError(f"pace={config.pace}: only a stream has a pace; add stream=true, or leave it away")
    model = transcriber_of(config)
    files, bad = find_audio(paths)
    audio: list[Path | Pcm] = [*files, *([Pcm(sys.stdin.buffer, config.rate)] if STDIN in arguments else [])]
    out = None if config.out is None else Path(config.out)
    _check_outputs(config.format, out, [*map(str, files), *([STDIN] if STDIN in arguments else [])])
    for each in bad:
        log_not_transcribed(str(each.file), each.reason)
    if config.stream:
        failed = len(bad) + stream_recordings(model, audio, config.format, config.pace)
    else:
        failed = len(bad) + write_transcripts(model, audio, config.format, out)
        log.info("%s", model.inference.statistics)
    if failed:
        given = len(bad) + len(audio)
        raise UsageError(f"{failed} of {given} files or folders could not be transcribed; each is named above")


def transcriber_of(config: DictConfig) -> Transcriber:
    """The transcriber of an entry point's configuration, with the search that it chooses."""
    trained = load_configured(config)
    recogniser, speech = trained.recogniser, trained.speech
    decode = with_language_models(build(config.decode), recogniser, speech.tokenizer)
    return Transcriber(
        trained.inference(), speech.features, speech.tokenizer, decode,
        windows=Windows(config.window_seconds, config.overlap_seconds), segments=config.segments,
        batch_size=config.unit_utterances, max_frames=trained.config.batch.max_frames,
    )  # fmt: skip


def write_transcripts(model: Transcriber, audio: Iterable[Audio], form: str, out: Path | None) -> int:
    """Write the transcripts of ``audio`` as they become known; returns how many recordings failed."""
    failed = 0
    for _, transcript in model.each(audio, alignment=form != "text"):
        if transcript.error is not None:
            failed += 1
            log_not_transcribed(transcript.source, transcript.error)
        if transcript.error is None or transcript.text or form == "json":
            _write(transcript, form, out)
    return failed


def _write(transcript: Transcript, form: str, out: Path | None) -> None:
    if out is not None:
        text = {"text": f"{transcript.text}\n", "json": f"{json_line(transcript)}\n", "srt": subtitles(transcript)}[
            form
        ]
        path = _output(out, transcript.source, form)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        say(str(path))
    elif form == "srt":
        say(*subtitles(transcript).split("\n"))
    else:
        say(text_line(transcript) if form == "text" else json_line(transcript))


def _output(out: Path, source: str, form: str) -> Path:
    return out / f"{'stdin' if source == STDIN else Path(source).stem}{SUFFIX[form]}"


def _check_outputs(form: str, out: Path | None, sources: Sequence[str]) -> None:
    """Raise UsageError where results would overwrite each other or what is there; make the folder ``out``."""
    if out is None:
        if form == "srt" and len(sources) > 1:
            raise UsageError(
                f"format=srt: {len(sources)} recordings need a file each; name a folder for them: out=subtitles"
            )
        return
    written = Counter(_output(out, source, form) for source in sources)
    if twice := [path for path, count in written.items() if count > 1]:
        named = " and ".join(source for source in sources if _output(out, source, form) == twice[0])
        raise UsageError(f"out={out}: {named} would both be written to {twice[0].name}; transcribe them apart")
    if there := [path for path in written if os.path.lexists(path)]:
        raise UsageError(f"out={out}: {there[0]} is there already; name another folder, or remove what is in this one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out={out}: cannot be made a folder ({error.strerror}); name another") from None
