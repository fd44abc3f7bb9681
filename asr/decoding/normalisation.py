"""Normalisation of texts before errors are counted, the same for reference and hypothesis.

By default nothing is changed: an error rate over normalised texts is a different metric, so that all normalisation is
chosen in the configuration and recorded with the results.
"""

import re

from asr.data.tokenizer import Case, normalise_text
from distributed.errors import UsageError


class TextNormalisation:
    """Case, then replacements in their order, then removed characters. Always composed characters and single spaces.

    A replacement never cuts a word: where ``from`` begins or ends with a letter or digit, so must the word, and an
    apostrophe belongs to its word. So ``uh`` leaves ``huh`` alone, and ``-`` is replaced wherever it stands.
    """

    def __init__(self, *, case: Case, replace: list[tuple[str, str]], remove: str) -> None:
        if any(not old.strip() for old, _ in replace):
            raise UsageError("text.replace: the first text of a pair is empty; write [[from, to], ...]")
        if any(character.isspace() for character in remove):
            raise UsageError(f"text.remove={remove!r}: white space separates words and cannot be removed")
        self.case = case
        self.replace = [(_pattern(old), new.replace("\\", r"\\")) for old, new in replace]
        self.remove = str.maketrans("", "", normalise_text(remove, "keep"))

    def __call__(self, text: str) -> str:
        """Return the normalised text, which is scored."""
        text = normalise_text(text, self.case)
        for pattern, new in self.replace:
            text = pattern.sub(new, text)
        return " ".join(text.translate(self.remove).split())


def _pattern(old: str) -> re.Pattern[str]:
    words = normalise_text(old, "keep")
    before = r"(?<![\w'’])" if words[0].isalnum() else ""
    after = r"(?![\w'’])" if words[-1].isalnum() else ""
    return re.compile(f"{before}{re.escape(words)}{after}")
