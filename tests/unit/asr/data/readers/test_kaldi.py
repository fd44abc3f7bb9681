"""Kaldi data directories, with whole files, segments and two channels in one file; what Kaldi runs is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.data.audio import read_audio
from asr.data.manifest import Utterance

Utterances = Callable[..., list[Utterance]]
Refusal = Callable[..., str]
Write = Callable[..., Path]

WHOLE = {
    "wav.scp": b"s1-a wav/a.wav\ns1-b wav/b.wav\n",
    "text": b"s1-a HELLO THERE\ns1-b YES\n",
    "utt2spk": b"s1-a s1\ns1-b s1\n",
}
SEGMENTED = {
    "wav.scp": b"rec1 wav/a.wav\n",
    "text": b"s1-1 ONE\ns1-2 TWO\n",
    "utt2spk": b"s1-1 s1\ns1-2 s1\n",
    "segments": b"s1-1 rec1 0.10 0.30\ns1-2 rec1 0.3 -1\n",
}
SPLITS = ("train=[data/train]", "dev=[]", "test=[]")


@pytest.fixture(autouse=True)
def audio(write_audio: Write) -> None:
    write_audio("wav/a.wav")
    write_audio("wav/b.wav", 0.25)


@pytest.fixture
def write(write_bytes: Write) -> Callable[..., None]:
    """Write a data directory, with some tables replaced."""

    def make(tables: dict[str, bytes], **changes: bytes) -> None:
        for name, content in (
            tables | {key.replace("wav_scp", "wav.scp"): value for key, value in changes.items()}
        ).items():
            write_bytes(f"data/train/{name}", content)

    return make


def test_whole_files(write: Callable[..., None], utterances: Utterances, tmp_path: Path) -> None:
    write(WHOLE)
    assert utterances("kaldi", *SPLITS) == [
        Utterance("s1-a", tmp_path / "wav/a.wav", 0.5, "hello there", "s1"),
        Utterance("s1-b", tmp_path / "wav/b.wav", 0.25, "yes", "s1"),
    ]


def test_segments_one_of_which_goes_to_the_end(write: Callable[..., None], utterances: Utterances) -> None:
    write(SEGMENTED)
    found = utterances("kaldi", *SPLITS)
    assert [(each.id, each.text, each.offset, each.duration) for each in found] == [
        ("s1-1", "one", 0.1, 0.2),
        ("s1-2", "two", 0.3, 0.2),
    ]
    assert [len(read_audio(each, 16000, resample=False)) for each in found] == [3200, 3200]


def test_audio_root_and_a_missing_utt2spk(write: Callable[..., None], utterances: Utterances, tmp_path: Path) -> None:
    write({key: value.replace(b"wav/", b"") for key, value in WHOLE.items() if key != "utt2spk"})
    found = utterances("kaldi", *SPLITS, f"audio_root={tmp_path / 'wav'}")
    assert [each.speaker for each in found] == ["", ""]


@pytest.mark.parametrize("tables", [WHOLE, SEGMENTED], ids=["whole", "segments"])
def test_tabs_are_blanks(write: Callable[..., None], utterances: Utterances, tables: dict[str, bytes]) -> None:
    write(tables)
    expected = utterances("kaldi", *SPLITS)
    write({name: content.replace(b" ", b"\t") for name, content in tables.items()})
    assert utterances("kaldi", *SPLITS) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": b"s1-a HELLO\n"}, "wav.scp:2: has no transcript in "),
        ({"text": b"s1-a HELLO\ns1-b\n"}, "wav.scp:2: has no transcript; write its text"),
        ({"text": WHOLE["text"] + b"s1-c NO\n"}, "text:3: has no audio: wav.scp does not name it"),
        ({"text": WHOLE["text"] + b"s1-a NO\n"}, "text:3: the id 's1-a' is already that of "),
        ({"wav_scp": WHOLE["wav.scp"] + b"s1-a wav/b.wav\n"}, "wav.scp:3: the id 's1-a' is already that of "),
        ({"utt2spk": b"s1-a s1\n"}, "wav.scp:2: has no speaker in "),
        ({"utt2spk": WHOLE["utt2spk"] + b"s1-a s2\n"}, "utt2spk:3: the id 's1-a' is already that of "),
        (
            {"wav_scp": b"s1-a sox wav/a.wav -t wav - |\ns1-b wav/b.wav\n"},
            "wav.scp:1: 'sox wav/a.wav -t wav - |' is a pipe",
        ),
        ({"wav_scp": b"s1-a wav/a.wav\ns1-b raw.ark:1234\n"}, "wav.scp:2: 'raw.ark:1234' points into an archive"),
        ({"wav_scp": b"s1-a wav/a.wav\ns1-b\n"}, "wav.scp:2: expected a recording and its file"),
        ({"wav_scp": b"s1-a wav/a.wav\ns1-b wav/none.wav\n"}, "none.wav: there is no such file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_defects_of_whole_files(
    write: Callable[..., None], refusal: Refusal, changes: dict[str, bytes], message: str
) -> None:
    write(WHOLE, **changes)
    refused = refusal("kaldi", *SPLITS)
    assert message in refused
    assert "data.on_bad=skip leaves them out" in refused


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (b"s1-1 rec1 -0.1 0.3\ns1-2 rec1 0 0.2\n", "segments:1: the segment from -0.1 s to 0.3 s must begin at 0 s"),
        (b"s1-1 rec1 0.3 0.1\ns1-2 rec1 0 0.2\n", "segments:1: the segment from 0.3 s to 0.1 s must begin at 0 s"),
        (b"s1-1 rec1 0 0.2\ns1-2 rec1 0.6 -1\n", "segments:2: the segment from 0.6 s to 0.5 s must begin at 0 s"),
        (
            b"s1-1 rec1 0 0.2\ns1-2 rec1 0.2 0.9\n",
            "a.wav: lasts 0.500 s, but the utterance is said to go from 0.200 s to 0.900",
        ),
        (b"s1-1 rec1 0 0.2\ns1-2 rec1 0.2 0.3\ns1-1 rec1 0.3 0.4\n", "segments:3: the id 's1-1' is already that of "),
        (b"s1-1 rec1 0 0.2\ns1-2 rec1 nan 0.9\n", "segments:2: the segment from nan s"),
        (b"s1-1 rec1 0 0.2\ns1-2 rec2 0.2 0.3\n", "segments:2: wav.scp has no recording 'rec2'"),
        (b"s1-1 rec1 0 0.2\ns1-2 rec1 0.2\n", "segments:2: expected utterance, recording, start and end in seconds"),
        (b"s1-1 rec1 0 0.2\n", "text:2: has no audio: segments does not name it"),
    ],
    ids=[
        "negative",
        "reversed",
        "after the end",
        "beyond the end",
        "duplicate",
        "nan",
        "recording",
        "columns",
        "missing",
    ],
)
def test_defects_of_segments(write: Callable[..., None], refusal: Refusal, segments: bytes, message: str) -> None:
    write(SEGMENTED, segments=segments)
    assert message in refusal("kaldi", *SPLITS)


def test_a_folder_that_is_no_data_directory(refusal: Refusal) -> None:
    assert "has no wav.scp and no text; name Kaldi data directories" in refusal("kaldi", *SPLITS)


def test_a_pipe_is_left_out_with_skip(write: Callable[..., None], utterances: Utterances) -> None:
    write(WHOLE, wav_scp=b"s1-a cat wav/a.wav |\ns1-b wav/b.wav\n")
    assert [each.id for each in utterances("kaldi", *SPLITS, "on_bad=skip")] == ["s1-b"]


SWITCHBOARD = {
    "text": b"sw02001-A_000010-000030 HI UM YEAH\nsw02001-B_000020-000040 UH-HUH\n",
    "utt2spk": b"sw02001-A_000010-000030 sw02001-A\nsw02001-B_000020-000040 sw02001-B\n",
    "segments": b"sw02001-A_000010-000030 sw02001-A 0.10 0.30\nsw02001-B_000020-000040 sw02001-B 0.20 0.40\n",
}
BOTH = b"sw02001-A wav/sw02001.wav\nsw02001-B wav/sw02001.wav\n"
BY_FILE = b"sw02001-A sw02001 A\nsw02001-B sw02001 B\n"


@pytest.mark.parametrize(
    ("tables", "overrides"),
    [
        ({"wav.scp": BOTH}, ()),
        ({"wav.scp": b"sw02001 wav/sw02001.wav\n"}, ()),
        ({"wav.scp": b"sw02001 wav/sw02001.wav\n", "reco2file_and_channel": BY_FILE}, ("channel_suffixes=[]",)),
        ({"wav.scp": BOTH, "reco2file_and_channel": BY_FILE.replace(b" A", b" 1").replace(b" B", b" 2")}, ()),
        (
            {
                "wav.scp": b"call wav/sw02001.wav\n",
                "segments": SWITCHBOARD["segments"]
                .replace(b" sw02001-A 0.10 0.30", b" call 0.10 0.30 0")
                .replace(b" sw02001-B 0.20 0.40", b" call 0.20 0.40 1"),
            },
            ("channel_suffixes=[]",),
        ),
    ],
    ids=["one line each", "one line", "reco2file_and_channel", "channels by number", "segments"],
)
def test_two_channels_in_one_file(
    write: Callable[..., None],
    write_audio: Write,
    utterances: Utterances,
    tables: dict[str, bytes],
    overrides: tuple[str, ...],
) -> None:
    file = write_audio("wav/sw02001.wav", sample_rate=8000, channels=2)
    write(SWITCHBOARD | tables)
    first, second = utterances("switchboard", *SPLITS, *overrides)
    assert first == Utterance("sw02001-A_000010-000030", file, 0.2, "hi um yeah", "sw02001-A", 0.1, 0)
    assert (second.offset, second.channel, second.audio_filepath) == (0.2, 1, file)
    assert not read_audio(first, 8000, resample=False).equal(read_audio(second, 8000, resample=False))


def test_channels_that_were_split_into_files(
    write: Callable[..., None], write_audio: Write, utterances: Utterances
) -> None:
    for side in "AB":
        write_audio(f"wav/{side}.wav", sample_rate=8000)
    write(SWITCHBOARD, wav_scp=b"sw02001-A wav/A.wav\nsw02001-B wav/B.wav\n", reco2file_and_channel=BY_FILE)
    found = utterances("switchboard", *SPLITS)
    assert [(each.audio_filepath.name, each.channel) for each in found] == [("A.wav", None), ("B.wav", None)]


def test_a_conversation_in_one_channel_is_not_taken_for_two(
    write: Callable[..., None], write_audio: Write, refusal: Refusal
) -> None:
    write_audio("wav/sw02001.wav", sample_rate=8000)
    write(SWITCHBOARD, wav_scp=BOTH)
    assert "has 1 channel(s), but channel 1 is asked for" in refusal("switchboard", *SPLITS)


def test_without_a_rule_two_channels_are_refused(
    write: Callable[..., None], write_audio: Write, refusal: Refusal
) -> None:
    write_audio("wav/sw02001.wav", sample_rate=8000, channels=2)
    write(SWITCHBOARD, wav_scp=BOTH)
    assert "has 2 channels; make it mono" in refusal("kaldi", *SPLITS, "sample_rate=8000")


def test_a_channel_that_is_none(write: Callable[..., None], write_audio: Write, refusal: Refusal) -> None:
    write_audio("wav/sw02001.wav", sample_rate=8000, channels=2)
    write(SWITCHBOARD, wav_scp=BOTH, reco2file_and_channel=BY_FILE.replace(b" B", b" left"))
    assert "reco2file_and_channel:2: expected recording, file and channel (A, B or 1, 2)" in refusal(
        "switchboard", *SPLITS
    )


def test_directories_of_mixed_rates_are_resampled_if_asked_for(
    utterances: Utterances, refusal: Refusal, write_audio: Write, write_bytes: Write
) -> None:
    """Telephone beside studio recordings: durations are seconds whatever the rate, and so are segments."""
    write_audio("wav/low.wav", 0.5, sample_rate=8000)
    write_audio("wav/high.flac", 0.6, sample_rate=44100)
    write_bytes("data/train/wav.scp", b"a wav/low.wav\nb wav/high.flac\n")
    write_bytes("data/train/text", b"a-1 yes\nb-1 no\n")
    write_bytes("data/train/segments", b"a-1 a 0.1 0.4\nb-1 b 0.25 0.5\n")
    message = refusal("kaldi", *SPLITS)
    assert "is sampled at 8000 Hz" in message
    assert "set data.resample=true" in message
    found = utterances("kaldi", "resample=true", *SPLITS)
    assert [each.duration for each in found] == [0.3, 0.25]
    assert [len(read_audio(each, 16000, resample=True)) for each in found] == [4800, 4000]
