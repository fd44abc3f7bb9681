"""The synthetic corpus: voices that exist and are disjoint, utterances that depend on their key alone."""

import builtins
import ctypes
import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from asr.data import espeak, synthetic
from asr.data.audio import read_audio
from asr.data.corpus import CorpusError
from asr.data.espeak import ACCENTS, VARIANTS, Synthesiser, open_synthesiser
from asr.data.grammar import sentence
from asr.data.manifest import Utterance, read_manifest
from asr.data.synthetic import Ranges, SyntheticCorpus, Take, draw_take, record

espeakng_loader = pytest.importorskip("espeakng_loader", reason="needs the extra 'synthetic' (espeak-ng)")

MakeCorpus = Callable[..., SyntheticCorpus]

RANGES = Ranges(
    words_per_minute=(150, 240), pitch=(30, 70), silence_seconds=(0.02, 0.15), gain_db=(-12, 0), noise_snr_db=None
)


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """A corpus of 4 + 2 + 3 utterances; keyword arguments replace its settings."""

    def make(**changes: Any) -> SyntheticCorpus:
        settings: dict[str, Any] = {
            "root": tmp_path / "synthetic",
            "sample_rate": 16000,
            "on_bad": "stop",
            "vocabulary": "small",
            "texts": None,
            "recombine": 0.0,
            "train_utterances": 4,
            "dev_utterances": 2,
            "test_utterances": 3,
            "seed": 1,
            **{name: getattr(RANGES, name) for name in Ranges.__slots__},
        }
        return SyntheticCorpus(**(settings | changes))

    return make


@pytest.fixture
def synthesiser() -> Iterator[Synthesiser]:
    with open_synthesiser() as opened:
        yield opened


def digest(utterance: Utterance) -> str:
    return hashlib.sha256(utterance.audio_filepath.read_bytes()).hexdigest()


def say(synthesiser: Synthesiser, voice: str, text: str = "seven red birds") -> bytes:
    return synthesiser.say(text, voice, 175, 50).numpy().tobytes()


# The synthesiser


def test_every_voice_is_a_voice_of_its_own(synthesiser: Synthesiser) -> None:
    voices = [f"{accent}+{variant}" for accent, variant in itertools.product(ACCENTS, VARIANTS)]
    assert len({say(synthesiser, voice, "red") for voice in voices}) == len(voices) == 104


@pytest.mark.parametrize("voice", ["en-us+m9", "en-us", "klingon+m1", "m1", ""])
def test_a_voice_that_does_not_exist_is_refused(synthesiser: Synthesiser, voice: str) -> None:
    with pytest.raises(ValueError, match="there is no voice"):
        say(synthesiser, voice)


@pytest.mark.parametrize("voice", ["en-us+m1", "en-gb+f2", "en-gb-scotland+m8", "en-029+f4"])
def test_speech_does_not_depend_on_the_sentences_spoken_before(synthesiser: Synthesiser, voice: str) -> None:
    alone = say(synthesiser, voice)
    for before in ("a long sentence about nothing", "no"):
        synthesiser.say(before, "en-gb-x-rp+f4", 300, 90)  # f4 has an echo, f1 breath noise
        synthesiser.say(before, "en-us+f1", 90, 10)
        assert say(synthesiser, voice) == alone


def _state_leaks_without_reloading(data: Path) -> bool:
    library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    library.espeak_Initialize(2, 0, str(data).encode(), 0x8000)
    spoken: list[bytes] = []

    def receive(samples: int | None, count: int, events: int | None) -> int:
        spoken.append(ctypes.string_at(samples, 2 * count) if samples else b"")
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(receive)
    library.espeak_SetSynthCallback(callback)
    said = set()
    for _ in range(3):
        spoken.clear()
        library.espeak_Synth(b"hello there\0", 12, 0, 1, 0, 1, None, None)
        said.add(b"".join(spoken))
    return len(said) > 1


def test_the_reason_for_reloading_the_library_still_holds() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_state_leaks_without_reloading, (espeakng_loader.get_data_path(),))


def test_a_library_in_use_elsewhere_in_the_process_is_refused(synthesiser: Synthesiser) -> None:
    library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    with pytest.raises(CorpusError, match="in a process of its own"):
        say(synthesiser, "en-us+m1")
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))
    assert say(synthesiser, "en-us+m1")


def test_nothing_to_say_is_refused(synthesiser: Synthesiser) -> None:
    with pytest.raises(ValueError, match="nothing to say in ''"):
        say(synthesiser, "en-us+m1", "")


def test_a_missing_synthesiser_is_one_line_with_the_remedy(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without_espeak(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "espeakng_loader":
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_espeak)
    with pytest.raises(CorpusError, match=r"make setup, or pip install 'murmuration\[synthetic\]'") as caught:
        make_corpus().prepare()
    assert "\n" not in str(caught.value)


def test_a_synthesiser_of_unknown_version_is_one_line_with_the_remedy(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    with pytest.raises(CorpusError, match=r"make setup, or pip install 'murmuration\[synthetic\]'"):
        make_corpus().prepare()


# Takes: how an utterance is spoken and recorded


def test_no_variant_is_in_two_splits_and_all_are_used() -> None:
    used = [variant for variants in synthetic.VARIANTS.values() for variant in variants]
    assert sorted(used) == sorted(VARIANTS)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_takes_stay_in_their_ranges_and_splits(split: str) -> None:
    takes = [
        draw_take(partial(sentence, vocabulary="small"), replace(RANGES, noise_snr_db=(5, 20)), 1, split, index)
        for index in range(500)
    ]
    assert {take.voice.split("+")[1] for take in takes} == set(synthetic.VARIANTS[split])
    assert {take.voice.split("+")[0] for take in takes} == set(ACCENTS)
    for name, low, high in (("words_per_minute", 150, 240), ("pitch", 30, 70), ("gain_db", -12, 0)):
        values = [getattr(take, name) for take in takes]
        assert low <= min(values) < low + 0.1 * (high - low) < high - 0.1 * (high - low) < max(values) <= high, name
    assert all(0.02 <= seconds <= 0.15 for take in takes for seconds in take.silence_seconds)
    assert all(5 <= take.noise_snr_db <= 20 for take in takes if take.noise_snr_db is not None)


def test_a_take_is_a_function_of_seed_split_and_index() -> None:
    keys = list(itertools.product((1, 2), ("train", "dev"), (0, 1)))
    takes = [draw_take(partial(sentence, vocabulary="full"), RANGES, *key) for key in keys]
    assert len(set(takes)) == len(keys)
    assert takes[::-1] == [draw_take(partial(sentence, vocabulary="full"), RANGES, *key) for key in reversed(keys)]


def a_take(**changes: Any) -> Take:
    return replace(Take("a", "en-us+m1", 175, 50, (0.01, 0.02), 0.0, None, 7), **changes)


def test_recording_adds_silence_and_gain() -> None:
    speech = torch.linspace(-0.5, 0.5, 50)
    recorded = record(a_take(gain_db=-6.0206), speech, 1000)
    assert len(recorded) == 10 + 50 + 20
    torch.testing.assert_close(recorded[10:60], speech / 2)
    assert not recorded[:10].any()
    assert not recorded[60:].any()


def test_noise_has_the_asked_power() -> None:
    speech = 0.3 * torch.sin(torch.arange(50_000) / 7)
    clean, noisy = (record(a_take(noise_snr_db=snr, gain_db=-3.0), speech, 16000) for snr in (None, 12.0))
    ratio = clean[160:-320].square().mean() / (noisy - clean).square().mean()
    assert 10 * torch.log10(ratio) == pytest.approx(12.0, abs=0.1)


# The corpus


def test_corpus_on_disk(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    manifests = corpus.prepare()
    utterances = {split: read_manifest(path) for split, path in manifests.items()}
    assert {split: len(members) for split, members in utterances.items()} == {"train": 4, "dev": 2, "test": 3}
    everything = [utterance for members in utterances.values() for utterance in members]
    assert len({utterance.id for utterance in everything}) == 9
    for utterance in everything:
        assert soundfile.info(str(utterance.audio_filepath)).subtype == "PCM_16"
        samples = read_audio(utterance, 16000, resample=False)
        assert len(samples) / 16000 == utterance.duration > 0.5
        assert 0.02 < samples.abs().max() < 1  # heard, and not limited
        assert utterance.speaker.split("+")[1] in synthetic.VARIANTS[utterance.id.split("-")[0]]
    parameters = json.loads((manifests["train"].parent / "corpus.json").read_text())
    assert parameters["vocabulary"] == "small"
    assert parameters["seed"] == 1


def test_same_settings_give_the_same_bytes_in_another_process_and_place(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    here = make_corpus().prepare()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(make_corpus(root=tmp_path / "elsewhere").prepare)
    for split in here:
        first, second = read_manifest(here[split]), read_manifest(there[split])
        assert [digest(utterance) for utterance in first] == [digest(utterance) for utterance in second]
        assert here[split].read_bytes() == there[split].read_bytes()


def test_an_utterance_does_not_depend_on_how_many_there_are(make_corpus: MakeCorpus) -> None:
    few = read_manifest(make_corpus(train_utterances=1).prepare()["test"])
    many = read_manifest(make_corpus(train_utterances=6, test_utterances=5).prepare()["test"])
    assert [digest(utterance) for utterance in few] == [digest(utterance) for utterance in many[:3]]


def test_a_corpus_is_made_once_and_other_settings_are_another_folder(make_corpus: MakeCorpus) -> None:
    first = make_corpus().prepare()["train"]
    written = first.stat().st_mtime_ns
    assert make_corpus().prepare()["train"] == first
    assert first.stat().st_mtime_ns == written
    others = ({"seed": 2}, {"vocabulary": "full"}, {"sample_rate": 8000}, {"pitch": (40, 50)}, {"dev_utterances": 1})
    folders = {make_corpus(**change).prepare()["train"].parent for change in others}
    assert len(folders | {first.parent}) == 1 + len(others)


def test_another_synthesiser_makes_another_corpus(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    here = make_corpus().prepare()["train"]
    assert json.loads((here.parent / "corpus.json").read_text())["espeakng_loader"] == espeak.version()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 9.9")
    there = make_corpus().prepare()["train"]
    assert here.parent != there.parent
    assert json.loads((there.parent / "corpus.json").read_text())["espeakng_loader"] == "espeakng-loader 9.9"


def test_reading_policy_does_not_make_another_corpus(make_corpus: MakeCorpus) -> None:
    assert make_corpus(on_bad="skip").prepare() == make_corpus().prepare()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": "large"}, r"data\.vocabulary must be small or full, got 'large'"),
        ({"words_per_minute": [10, 200]}, r"data\.words_per_minute .* at least 80 and at most 450, got \[10, 200\]"),
        ({"gain_db": [0, 6]}, r"data\.gain_db .* at most 0, got \[0, 6\]"),
        ({"noise_snr_db": [20, 10]}, r"data\.noise_snr_db .* got \[20, 10\]"),
    ],
)
def test_settings_out_of_range_name_key_and_value(make_corpus: MakeCorpus, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_corpus(**change)


def test_the_users_own_sentences_are_spoken(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("My Cat\nyour dog\n")
    corpus = make_corpus(texts=texts)
    spoken = read_manifest(corpus.prepare()["train"])
    assert {utterance.text for utterance in spoken} <= {"my cat", "your dog"}
    texts.write_text("My Cat\nher dog\n")
    assert make_corpus(texts=texts).prepare() != corpus.prepare()  # the sentences count, not the file's name
