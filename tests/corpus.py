"""The corpus of seconds that tests train on, from a seed."""

from pathlib import Path

import numpy as np
import soundfile

from asr.data.manifest import Utterance, write_manifest

WORDS = ("no", "yes", "stop", "go")


def write_corpus(root: Path) -> Path:
    """40 + 6 utterances of one or two words, each word a chord of its own; 8 kHz."""
    rng = np.random.default_rng(0)
    for split, size in (("train", 40), ("dev", 6)):
        utterances = []
        for index in range(size):
            words = [WORDS[i] for i in rng.integers(len(WORDS), size=rng.integers(1, 3))]
            parts = []
            for word in words:
                time = np.arange(int(rng.uniform(0.2, 0.3) * 8000)) / 8000
                pitch = 300 * (1 + WORDS.index(word))
                parts.append(np.sin(2 * np.pi * pitch * time) + 0.3 * np.sin(2 * np.pi * 2.5 * pitch * time))
            samples = 0.3 * np.concatenate(parts) + 0.01 * rng.standard_normal(sum(map(len, parts)))
            file = root / f"{split}-{index}.wav"
            soundfile.write(file, samples, 8000)
            utterances.append(Utterance(file.stem, file, len(samples) / 8000, " ".join(words), f"speaker{index % 3}"))
        write_manifest(root / f"{split}.jsonl", utterances)
    return root
