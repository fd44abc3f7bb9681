"""Text without sound, for language models: sentences as utterances of a plan, and units of them as batches.

A text of U tokens takes U + 1 predictions, for its tokens and its end; the batch plan counts these as frames. A line of
a text file is an utterance of no duration, named by its file and line number.

B texts   U tokens
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from asr.data.audio import BadUtterance
from asr.data.batch import Batch, RawBatch, Unit
from asr.data.manifest import MANIFEST_SUFFIXES, Utterance, read_manifest
from asr.data.pipeline import collate
from asr.data.screening import OnBad, Refusal, Screened, apply_policy, count_targets
from asr.data.texts import read_lines
from asr.data.tokenizer import Tokenizer


def frames_of_text(tokens: int) -> int:
    """Number of predictions for a number of tokens: one for each token, and one for the end."""
    return tokens + 1


def read_text(path: Path, key: str) -> list[Utterance]:
    """The utterances of a manifest (``.jsonl``, ``.json``), or the lines of a text file except empty ones.

    ``key`` is the configuration key that errors name.

    Raises:
        CorpusError: the text file cannot be read.
        ManifestError: the manifest cannot be read, or a line of it is not an utterance.
    """
    if path.suffix in MANIFEST_SUFFIXES:
        return read_manifest(path)
    lines = enumerate(read_lines(path, key), start=1)
    return [Utterance(f"{path}:{number}", path, 0.0, line) for number, line in lines if line.strip()]


def screen_texts(utterances: Sequence[Utterance], *, tokenizer: Tokenizer, on_bad: OnBad) -> Screened:
    """Screen texts without audio: usable if the tokenizer can write them; ``frames`` count predictions.

    Raises:
        BadUtterance: with ``stop``, if any is refused; with ``skip``, if all are.
    """
    screened = Screened([], [], [], [])
    for utterance in utterances:
        try:
            num_targets = count_targets(utterance, tokenizer)
        except BadUtterance as bad:
            screened.refused.append(Refusal(bad.utterance_id, bad.file, bad.reason))
            continue
        screened.usable.append(utterance)
        screened.frames.append(frames_of_text(num_targets))
        screened.target_lengths.append(num_targets)
    apply_policy(screened, on_bad)
    return screened


class TextDataset(Dataset[Batch]):
    """Maps a unit of the plan to its texts; features are empty, (B, U+1, 0). All texts must be the tokenizer's."""

    def __init__(self, *, utterances: Sequence[Utterance], tokenizer: Tokenizer, seed: int) -> None:
        self.utterances = utterances
        self.tokenizer = tokenizer
        self.seed = seed

    def __getitem__(self, unit: Unit) -> Batch:
        """The padded batch of a unit."""
        chosen = [self.utterances[index] for index in unit.utterances]
        targets = [self.tokenizer.encode(utterance.text) for utterance in chosen]
        silence = [torch.zeros(frames_of_text(len(tokens)), 0) for tokens in targets]
        ids = [utterance.id for utterance in chosen]
        raw = RawBatch(self.seed, unit.epoch, ids, silence, targets, targets)
        return collate(raw, dimension=0, unit=unit.name, audio_seconds=0.0)
