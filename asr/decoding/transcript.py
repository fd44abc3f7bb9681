"""The transcript of a recording, and how it is written: a line of text, a line of JSON, subtitles (SubRip)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from asr.decoding.timed_words import Word
from asr.foreign.terminal import shown

CUE_CHARACTERS = 84  # two lines of 42, which subtitles on screens keep to
CUE_SECONDS = 7.0
PAUSE_SECONDS = 1.0  # of silence, after which a new cue begins


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was recognised in one recording."""

    source: str  # path of the file, or a name for samples
    text: str
    words: list[Word]
    seconds: float  # of audio
    error: str | None = None  # why it could not be transcribed, or not to its end; what was recognised until then stays

    @property
    def confidence(self) -> float | None:
        """Mean of the words' confidences; None where there is no word."""
        return sum(word.confidence for word in self.words) / len(self.words) if self.words else None


def text_line(transcript: Transcript) -> str:
    """The source, a tab, the text."""
    return f"{shown(transcript.source)}\t{shown(transcript.text)}"


def json_line(transcript: Transcript, **remarks: str | float) -> str:
    """All that is known, as one JSON object on one line, after ``remarks``; seconds rounded to milliseconds."""
    record = {
        "file": transcript.source,
        **remarks,
        "text": transcript.text,
        "confidence": None if transcript.confidence is None else round(transcript.confidence, 4),
        "seconds": round(transcript.seconds, 3),
        "words": word_records(transcript.words),
        "error": transcript.error,
    }
    return one_line(record)


def word_records(words: Sequence[Word]) -> list[dict[str, str | float]]:
    """Words as JSON has them."""
    return [
        {key: round(value, 4 if key == "confidence" else 3) if isinstance(value, float) else value for key, value in asdict(word).items()}
        for word in words
    ]  # fmt: skip


def one_line(record: Mapping[str, object]) -> str:
    """A JSON object on one line, control characters written out."""
    line = json.dumps(record, ensure_ascii=False)
    return line if shown(line) == line else json.dumps(record)


def subtitles(transcript: Transcript) -> str:
    """SubRip: numbered cues of a few words, each with the time at which it is shown."""
    cues = [
        f"{number}\n{_clock(cue[0].start)} --> {_clock(cue[-1].end)}\n{' '.join(shown(word.text) for word in cue)}\n"
        for number, cue in enumerate(cue_words(transcript.words), start=1)
    ]
    return "\n".join(cues)


def cue_words(words: Sequence[Word]) -> list[list[Word]]:
    """Words in groups that are shown together: until a pause, or until the group is long."""
    cues: list[list[Word]] = []
    for word in words:
        fits = bool(cues) and (
            sum(len(each.text) + 1 for each in cues[-1]) + len(word.text) <= CUE_CHARACTERS
            and word.end - cues[-1][0].start <= CUE_SECONDS
            and word.start - cues[-1][-1].end < PAUSE_SECONDS
        )
        if fits:
            cues[-1].append(word)
        else:
            cues.append([word])
    return cues


def _clock(seconds: float) -> str:
    """hours:minutes:seconds,milliseconds"""
    milliseconds = round(1000 * seconds)
    return (
        f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:{milliseconds // 1000 % 60:02d},"
        f"{milliseconds % 1000:03d}"
    )
