"""How transcripts are written: one line for programs and people, subtitles, whatever the text holds."""

import json

from asr.decoding.timed_words import Word
from asr.decoding.transcript import Transcript, cue_words, json_line, subtitles, text_line


def transcript(*words: Word) -> Transcript:
    return Transcript("a\tb.wav", " ".join(word.text for word in words), list(words), 3725.5)


def test_lines_stay_lines() -> None:
    odd = transcript(Word("zwölf", 0.1, 0.5, 0.5), Word("\x9f\u2028\n", 1.0, 1.5, 1.0))
    assert text_line(odd).count("\t") == 1
    assert text_line(odd).replace("\t", "").isprintable()
    record = json.loads(json_line(odd))
    assert record["text"] == odd.text
    assert record["file"] == odd.source
    assert record["words"][0] == {"text": "zwölf", "start": 0.1, "end": 0.5, "confidence": 0.5}
    assert record["confidence"] == 0.75
    assert not set("\x9f\u2028\n") & set(json_line(odd))
    assert "ö" in json_line(transcript(Word("zwölf", 0, 1, 1)))


def test_subtitles_break_at_pauses_and_when_long() -> None:
    words = [Word("word", 0.5 * index, 0.5 * index + 0.4, 1.0) for index in range(20)]
    late = Word("late", 3725.0, 3725.4321, 1.0)
    cues = cue_words([*words, late])
    assert [word for cue in cues for word in cue] == [*words, late]
    assert cues[-1] == [late]
    assert all(cue[-1].end - cue[0].start <= 7 for cue in cues)
    text = subtitles(transcript(*words, late))
    assert text.startswith("1\n00:00:00,000 --> 00:00:06,900\nword word ")
    assert text.endswith(f"\n\n{len(cues)}\n01:02:05,000 --> 01:02:05,432\nlate\n")
    assert subtitles(transcript()) == ""
