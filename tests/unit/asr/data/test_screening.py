"""Screening: usable and refused utterances add up, and every defect that a header or a text shows is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr.data.audio import BadUtterance, read_audio
from asr.data.features import LogMel
from asr.data.manifest import Utterance
from asr.data.screening import OnBad, Refusal, Screened, refusal_summary, screen
from asr.data.tokenizer import CharacterTokenizer

Make = Callable[..., Utterance]
Screen = Callable[..., Screened]


@pytest.fixture
def screening(characters: CharacterTokenizer, log_mel: LogMel) -> Screen:
    def run(*utterances: Utterance, on_bad: OnBad = "skip") -> Screened:
        return screen(utterances, tokenizer=characters, features=log_mel, on_bad=on_bad)

    return run


def defects(make: Make, folder: Path) -> dict[str, Utterance]:
    """One utterance per kind of defect, by a piece of the reason that must be given."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no audio")
    return {
        "no such file": Utterance("missing", folder / "missing.wav", 1.0, ""),
        "empty (0 bytes)": Utterance("empty", folder / "empty.wav", 1.0, ""),
        "cannot be read as audio": Utterance("text", folder / "text.wav", 1.0, ""),
        "zero length": make("zero", samples=np.zeros(0), duration=0.5),
        "sampled at 8000 Hz": make("slow", sample_rate=8000),
        "has 2 channels": make("stereo", channels=2),
        "lasts 0.500 s": make("liar", duration=3.0),
        "above 0": make("nothing", duration=0.0),
        "no '7' (U+0037), 'é' (U+00E9)": make("symbols", text="café 7"),
        "is already that of": make("other", id="good"),
        "is too short for one frame of 25 ms": make("blip", seconds=0.02),
    }


def test_all_good(screening: Screen, make_utterance: Make, log_mel: LogMel) -> None:
    utterances = [
        make_utterance("a", 0.5),
        make_utterance("b", 0.7, text=""),
        make_utterance("c", 1, offset=0.1, duration=0.5),
    ]
    screened = screening(*utterances, on_bad="stop")
    assert screened.usable == utterances
    assert screened.target_lengths == [5, 0, 5]
    assert screened.refused == []
    assert screened.frames == [log_mel.mel(read_audio(utterance, 16000)).shape[0] for utterance in utterances]


def test_frames_are_those_that_the_model_gets(characters: CharacterTokenizer, make_utterance: Make) -> None:
    """After stacking: the batch plan's budgets and the encoder's subsampling count on."""
    stacked = LogMel(
        sample_rate=16000, num_mels=20, frame_length_ms=25.0, frame_shift_ms=10.0, dither=0.0, normalise="utterance",
        deltas=1, stack=3,
    )  # fmt: skip
    utterances = [make_utterance("a", 0.5), make_utterance("b", 0.71)]
    screened = screen(utterances, tokenizer=characters, features=stacked, on_bad="stop")
    assert screened.frames == [len(stacked.model_input(read_audio(each, 16000))) for each in utterances] == [16, 23]


def test_skip_leaves_out_and_names_every_defect(screening: Screen, make_utterance: Make, tmp_path: Path) -> None:
    good, bad = make_utterance("good"), defects(make_utterance, tmp_path)
    screened = screening(good, *bad.values())
    assert screened.usable == [good]
    assert len(screened.frames) == len(screened.target_lengths) == 1
    assert [refusal.file for refusal in screened.refused] == [utterance.audio_filepath for utterance in bad.values()]
    for reason, refusal in zip(bad, screened.refused, strict=True):
        assert reason in refusal.reason


def test_a_refused_line_does_not_claim_its_id(screening: Screen, make_utterance: Make, tmp_path: Path) -> None:
    missing, twin = Utterance("a", tmp_path / "missing.wav", 1.0, ""), make_utterance("a")
    again = make_utterance("other", id="a")
    screened = screening(missing, twin, again)
    assert screened.usable == [twin]
    assert [refusal.file for refusal in screened.refused] == [missing.audio_filepath, again.audio_filepath]
    assert "no such file" in screened.refused[0].reason
    assert f"is already that of {twin.audio_filepath}" in screened.refused[1].reason


def test_stop_names_the_first_defect_the_count_and_the_remedy(
    screening: Screen, make_utterance: Make, tmp_path: Path
) -> None:
    good, bad = make_utterance("good"), defects(make_utterance, tmp_path)
    with pytest.raises(BadUtterance, match=r"missing\.wav: there is no such file.*11 of 12 .*data\.on_bad=skip"):
        screening(good, *bad.values(), on_bad="stop")


def test_nothing_usable_is_an_error_even_with_skip(screening: Screen, make_utterance: Make) -> None:
    with pytest.raises(BadUtterance, match="all 1 utterances are unusable"):
        screening(make_utterance(channels=2))


def test_no_utterances_is_an_error(screening: Screen) -> None:
    with pytest.raises(ValueError, match="empty"):
        screening()


def test_segments_share_one_file(screening: Screen, make_utterance: Make) -> None:
    whole = make_utterance(seconds=1.0)
    parts = [Utterance(str(i), whole.audio_filepath, 0.25, "x", offset=0.25 * i) for i in range(5)]
    screened = screening(*parts)
    assert screened.usable == parts[:4]
    assert "said to go from 1.000 s to 1.250 s" in screened.refused[0].reason


def test_summary_counts_what_it_does_not_show() -> None:
    refused = [Refusal(str(i), Path("f.wav"), "is bad") for i in range(5)]
    assert refusal_summary(refused, examples=2) == [
        "left out 5 unusable utterances (1 files)",
        "  f.wav: is bad (utterance 0)",
        "  f.wav: is bad (utterance 1)",
        "  and 3 more",
    ]
    assert refusal_summary([], examples=2) == []
