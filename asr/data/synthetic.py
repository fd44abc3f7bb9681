"""The embedded corpus: sentences of a grammar, or of the user's, spoken by espeak-ng in many voices, speeds and pitches.

A voice is an accent and a variant (the speaker). The variants of train, dev and test are disjoint, so that no speaker
of a test is heard in training. Each utterance is drawn with a generator keyed by (seed, split, index) and
synthesised from a fresh state: it does not depend on the other utterances, nor on how many there are.

    root/<hash>/{train,dev,test}.jsonl      manifests
    root/<hash>/{train,dev,test}/*.wav      16-bit PCM
    root/<hash>/corpus.json                 the parameters that made it
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from asr.data import espeak
from asr.data.batch import keyed_seed
from asr.data.corpus import Corpus, content_hash, write_wav
from asr.data.grammar import Vocabulary, sentence
from asr.data.manifest import Utterance, write_manifest
from asr.data.resampling import Resampler
from asr.data.texts import Sentences, read_sentences
from distributed.errors import UsageError
from distributed.ranges import Count, Natural, Probability, checked_interval

FORMAT = 1  # raised whenever the same parameters would give another corpus

VARIANTS: dict[str, tuple[str, ...]] = {
    "train": ("m1", "m2", "m4", "m5", "m7", "f1", "f3", "f4"),
    "dev": ("m8", "f5"),
    "test": ("m3", "m6", "f2"),
}
"""The speakers of each split; no variant is in two of them."""

TELL_EVERY = 1000  # utterances; some seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Take:
    """The parameters with which one utterance is spoken and recorded."""

    text: str
    voice: str
    words_per_minute: int
    pitch: int  # 0 to 100
    silence_seconds: tuple[float, float]  # before and after
    gain_db: float
    noise_snr_db: float | None
    noise_seed: int


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranges from which the takes of a corpus are drawn, uniformly."""

    words_per_minute: tuple[float, float]
    pitch: tuple[float, float]
    silence_seconds: tuple[float, float]
    gain_db: tuple[float, float]
    noise_snr_db: tuple[float, float] | None


def draw_take(draw_text: Callable[[torch.Generator], str], ranges: Ranges, seed: int, split: str, index: int) -> Take:
    """Draw the take of one utterance, a function of its key, the ranges and the source of texts."""
    generator = torch.Generator().manual_seed(keyed_seed(seed, split, index))

    def uniform(ends: tuple[float, float]) -> float:
        return ends[0] + (ends[1] - ends[0]) * float(torch.rand((), generator=generator, dtype=torch.float64))

    def choice(values: tuple[str, ...]) -> str:
        return values[int(torch.randint(len(values), (), generator=generator))]

    return Take(
        text=draw_text(generator),
        voice=f"{choice(tuple(espeak.ACCENTS))}+{choice(VARIANTS[split])}",
        words_per_minute=round(uniform(ranges.words_per_minute)),
        pitch=round(uniform(ranges.pitch)),
        silence_seconds=(uniform(ranges.silence_seconds), uniform(ranges.silence_seconds)),
        gain_db=uniform(ranges.gain_db),
        noise_snr_db=None if ranges.noise_snr_db is None else uniform(ranges.noise_snr_db),
        noise_seed=keyed_seed(seed, split, index, "noise"),
    )


def record(take: Take, speech: Tensor, sample_rate: int) -> Tensor:
    """Simulate a recording: add silence around the speech, apply the gain, add white noise at the take's ratio.

    Args:
        speech: (samples,) float at ``sample_rate``, full scale at 1; its mean power is the noise ratio's reference.

    Returns:
        (samples,) float; may exceed full scale with much noise.
    """
    before, after = take.silence_seconds
    signal = torch.nn.functional.pad(speech, (round(before * sample_rate), round(after * sample_rate)))
    if take.noise_snr_db is not None:
        noise_power = speech.square().mean() * 10 ** (-take.noise_snr_db / 10)
        generator = torch.Generator().manual_seed(take.noise_seed)
        signal = signal + noise_power.sqrt() * torch.randn(signal.shape, generator=generator)
    return signal * 10 ** (take.gain_db / 20)


class SyntheticCorpus(Corpus):
    """Synthetic speech, made on first use."""

    def __init__(
        self,
        *,
        root: Path,
        sample_rate: Count,
        on_bad: Literal["stop", "skip"],
        vocabulary: Vocabulary,
        texts: Path | None,
        recombine: Probability,
        train_utterances: Count,
        dev_utterances: Count,
        test_utterances: Count,
        words_per_minute: tuple[float, float],
        pitch: tuple[float, float],
        silence_seconds: tuple[float, float],
        gain_db: tuple[float, float],
        noise_snr_db: tuple[float, float] | None,
        seed: Natural,
    ) -> None:
        super().__init__(root=root, sample_rate=sample_rate, on_bad=on_bad, resample=False)
        if vocabulary not in ("small", "full"):
            raise UsageError(f"data.vocabulary must be small or full, got {vocabulary!r}")
        self.vocabulary: Vocabulary = vocabulary
        self.texts = texts
        self.recombine = recombine
        self.utterances = {"train": train_utterances, "dev": dev_utterances, "test": test_utterances}
        self.ranges = Ranges(
            words_per_minute=checked_interval("data.words_per_minute", words_per_minute, low=80, high=450),
            pitch=checked_interval("data.pitch", pitch, low=0, high=100),
            silence_seconds=checked_interval("data.silence_seconds", silence_seconds, low=0),
            gain_db=checked_interval("data.gain_db", gain_db, high=0),
            noise_snr_db=None if noise_snr_db is None else checked_interval("data.noise_snr_db", noise_snr_db),
        )
        self.seed = seed

    def prepare(self) -> dict[str, Path]:
        """Make the corpus unless it is there: about 10 s for an hour of speech."""
        folder = self.root / content_hash(**self._parameters())
        self.make_once(folder, self._make, key="data.root")
        return {split: folder / f"{split}.jsonl" for split in self.utterances}

    def _parameters(self) -> dict[str, Any]:
        """Everything that determines the content."""
        own_texts = {} if self.texts is None else {"texts": self._sentences, "recombine": self.recombine}
        return own_texts | {
            "corpus": "synthetic",
            "format": FORMAT,
            "espeakng_loader": espeak.version(),
            "sample_rate": self.sample_rate,
            "vocabulary": self.vocabulary,
            "utterances": self.utterances,
            "seed": self.seed,
            "ranges": {name: getattr(self.ranges, name) for name in Ranges.__slots__},
        }

    @cached_property
    def _sentences(self) -> list[str]:
        return [] if self.texts is None else read_sentences(Path(self.texts))

    def _make(self, folder: Path) -> None:
        started, seconds = time.monotonic(), 0.0
        logger.info("making the synthetic corpus: %d utterances in %s", sum(self.utterances.values()), self.root)
        resample = Resampler(espeak.SAMPLE_RATE, self.sample_rate)
        draw_text = (
            partial(sentence, vocabulary=self.vocabulary)
            if self.texts is None
            else Sentences(self._sentences, self.recombine).draw
        )
        with espeak.open_synthesiser() as synthesiser:
            for split, number in self.utterances.items():
                takes = (draw_take(draw_text, self.ranges, self.seed, split, index) for index in range(number))
                spoken = self._speak_split(synthesiser, resample, folder / split, takes)
                write_manifest(folder / f"{split}.jsonl", spoken)
                seconds += sum(utterance.duration for utterance in spoken)
        (folder / "corpus.json").write_text(json.dumps(self._parameters(), indent=2) + "\n", encoding="utf-8")
        logger.info("made %.2f hours of speech in %.0f s", seconds / 3600, time.monotonic() - started)

    def _speak_split(
        self, synthesiser: espeak.Synthesiser, resample: Resampler, folder: Path, takes: Iterable[Take]
    ) -> list[Utterance]:
        folder.mkdir()
        spoken = []
        for index, take in enumerate(takes):
            samples = synthesiser.say(take.text, take.voice, take.words_per_minute, take.pitch)
            signal = record(take, resample(samples / 32768), self.sample_rate)
            name = f"{folder.name}-{index:06d}"
            path = folder / f"{name}.wav"
            duration = write_wav(path, signal, self.sample_rate)
            spoken.append(
                Utterance(id=name, audio_filepath=path, duration=duration, text=take.text, speaker=take.voice)
            )
            if (index + 1) % TELL_EVERY == 0:
                logger.info("%s: %d of %d utterances", folder.name, index + 1, self.utterances[folder.name])
        return spoken
