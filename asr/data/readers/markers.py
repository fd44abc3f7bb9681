"""Markers in transcripts, such as ``[laughter]`` and ``<noise>``: they are not spoken, so a model shall not write them.

Which words are markers is a setting, because corpora disagree and a hesitation is a word to some. They are taken out
before the manifests are written, and counted.
"""

from collections.abc import Iterable, Set

from asr.data.tokenizer import normalise_text
from distributed.errors import UsageError


def checked_markers(remove: Iterable[str]) -> frozenset[str]:
    """The markers in lower case, as they are compared.

    Raises:
        ValueError: one is empty or is several words, which no word of a text equals.
    """
    for marker in remove:
        if len(marker.split()) != 1:
            raise UsageError(f"data.remove has {marker!r}; every entry is one word of a text, such as [noise]")
    return frozenset(normalise_text(marker, "lower") for marker in remove)


def split_markers(text: str, markers: Set[str]) -> tuple[str, list[str]]:
    """The text without the words that are markers in any case, and those words in lower case; single blanks."""
    words = text.split()
    folded = [normalise_text(word, "lower") for word in words]
    kept = [word for word, name in zip(words, folded, strict=True) if name not in markers]
    return " ".join(kept), [name for name in folded if name in markers]
