"""Screening: every utterance is checked before training, so that a run does not fail, or learn less, hours later.

Only headers are read. Defects either raise an error that names the first one and their number (``data.on_bad=stop``),
or their utterances are left out, counted and listed (``data.on_bad=skip``). Nothing is silently dropped: usable and
refused utterances add up to the manifest. Defects of the samples (NaN, a truncated stream) are found later by
``asr.data.audio.read_audio``, under the same policy.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asr.data.audio import BadUtterance, Header, header_defect, num_samples, read_header
from asr.data.features import LogMel
from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer, UnknownSymbol
from distributed.errors import UsageError

OnBad = Literal["stop", "skip"]
HeadersOf = Callable[[Iterable[Path]], Mapping[Path, Header | str]]  # as read_headers

HEADER_THREADS = 8  # headers are waited for, not computed: on a network file system this is eight times faster


@dataclass(frozen=True, slots=True)
class Refusal:
    """An utterance that was left out, and why."""

    utterance_id: str
    file: Path
    reason: str

    def __str__(self) -> str:
        return str(BadUtterance(self.utterance_id, self.file, self.reason))


@dataclass(frozen=True, slots=True)
class Screened:
    """The result of screening; the entries of the first three lists correspond, in the manifest's order."""

    usable: list[Utterance]
    frames: list[int]  # feature frames of each, exact
    target_lengths: list[int]  # tokens of each; 0 is allowed (silence)
    refused: list[Refusal]


def screen(
    utterances: Sequence[Utterance],
    *,
    tokenizer: Tokenizer,
    features: LogMel,
    on_bad: OnBad,
    resample: bool,
    headers_of: HeadersOf | None = None,
) -> Screened:
    """Sort the utterances into usable ones and refused ones. An empty text is usable.

    Args:
        resample: whether files may have another rate than the features.
        headers_of: where headers come from (asr/data/header_cache.py); None: from the files.

    Raises:
        BadUtterance: with ``stop``, if any is refused; with ``skip``, if all are.
        ValueError: there are no utterances.
    """
    if not utterances:
        raise UsageError("there are no utterances to screen; the manifest is empty")
    files = dict.fromkeys(utterance.audio_filepath for utterance in utterances)
    headers = (headers_of or read_headers)(files)
    screened, file_of = Screened([], [], [], []), dict[str, Path]()
    for utterance in utterances:
        try:
            refuse_duplicate(utterance, file_of)
            header = usable_header(
                utterance, headers[utterance.audio_filepath], features.sample_rate, resample=resample
            )
            frames = _count_frames(utterance, header, features)
            num_targets = count_targets(utterance, tokenizer)
        except BadUtterance as bad:
            screened.refused.append(Refusal(bad.utterance_id, bad.file, bad.reason))
            continue
        file_of[utterance.id] = utterance.audio_filepath
        screened.usable.append(utterance)
        screened.frames.append(frames)
        screened.target_lengths.append(num_targets)
    apply_policy(screened, on_bad)
    return screened


def read_headers(files: Iterable[Path]) -> dict[Path, Header | str]:
    """Read the header of each file; the error instead where it cannot be read."""

    def header_or_defect(file: Path) -> Header | str:
        try:
            return read_header(file)
        except ValueError as error:
            return str(error)

    files = list(files)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        return dict(zip(files, pool.map(header_or_defect, files), strict=True))


def refuse_duplicate(utterance: Utterance, file_of: dict[str, Path]) -> None:
    """Refuse an utterance whose id a usable utterance already has; ``file_of`` maps usable ids to their files."""
    if utterance.id in file_of:
        reason = f"the id {utterance.id!r} is already that of {file_of[utterance.id]}; give every line its own id"
        raise BadUtterance(utterance.id, utterance.audio_filepath, reason)


def usable_header(utterance: Utterance, header: Header | str, sample_rate: int, *, resample: bool) -> Header:
    """The header; raises BadUtterance if it could not be read or disagrees with the manifest."""
    defect = header if isinstance(header, str) else header_defect(utterance, header, sample_rate, resample=resample)
    if defect is not None:
        raise BadUtterance(utterance.id, utterance.audio_filepath, defect)
    assert isinstance(header, Header)
    return header


def _count_frames(utterance: Utterance, header: Header, features: LogMel) -> int:
    frames = features.frames_of(num_samples(utterance, header, features.sample_rate))
    if frames == 0:
        reason = f"is too short for one frame of {features.frame_length_ms:g} ms; remove the utterance"
        raise BadUtterance(utterance.id, utterance.audio_filepath, reason)
    return frames


def count_targets(utterance: Utterance, tokenizer: Tokenizer) -> int:
    """Number of tokens of the text; raises BadUtterance if it has a symbol that the tokenizer does not have."""
    try:
        return len(tokenizer.encode(utterance.text))
    except UnknownSymbol as error:
        raise BadUtterance(utterance.id, utterance.audio_filepath, str(error)) from None


def apply_policy(screened: Screened, on_bad: OnBad) -> None:
    """Raise BadUtterance if any utterance was refused under ``stop``, or all were under ``skip``."""
    refused, total = screened.refused, len(screened.refused) + len(screened.usable)
    if not refused:
        return
    first = refused[0]
    if on_bad == "stop":
        count = f"{len(refused)} of {total} utterances are unusable; data.on_bad=skip leaves them out"
    elif not screened.usable:
        count = f"all {total} utterances are unusable"
    else:
        return
    raise BadUtterance(first.utterance_id, first.file, f"{first.reason} [{count}]")


def refusal_summary(refused: Sequence[Refusal], examples: int) -> list[str]:
    """Log lines: the number of utterances left out and of their files, and the first few with their reasons."""
    if not refused:
        return []
    files = Counter(refusal.file for refusal in refused)
    head = f"left out {len(refused)} unusable utterances ({len(files)} files)"
    rest = [f"  and {len(refused) - examples} more"] if len(refused) > examples else []
    return [head, *(f"  {refusal}" for refusal in refused[:examples]), *rest]
