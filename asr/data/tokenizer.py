"""Tokens: from text to the numbers that a transducer writes, and back.

Token 0 is BLANK in every tokenizer: it never comes out of ``encode``, ``vocabulary_size`` counts it, and everything
that is written has a number from 1 on. Text with a symbol that the tokenizer does not have is refused and the symbols
are named: an <unk> token would hide broken transcripts. A run saves its tokenizer, so that its folder needs nothing
else to be decoded.

Subword pieces: Kudo, "Subword regularization", ACL 2018 (unigram); Sennrich et al., ACL 2016 (BPE).
"""

import hashlib
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import sentencepiece

from asr.foreign.files import TOKENS, ForeignError, read_bytes
from asr.foreign.json_text import read_json
from distributed.errors import UsageError
from distributed.ranges import Count

BLANK = 0  # also the start symbol, which prediction networks read first
BLANK_SYMBOL = "<blank>"
SPACE_SYMBOL = "▁"  # how sentencepiece writes a space; used in tables for characters too

Case = Literal["lower", "upper", "keep"]

_SETTINGS_FILE = "tokenizer.json"
_MODEL_FILE = "tokenizer.model"
_TABLE_FILE = "tokens.txt"


class UnknownSymbol(ValueError):  # noqa: N818 - named for what it is about, like KeyError's missing key
    """Text that the tokenizer cannot write; the message names the symbols."""


class Tokenizer(Protocol):
    """The interface of all tokenizers."""

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, blank included."""

    @property
    def symbols(self) -> list[str]:
        """The printable symbol of each token; entry 0 is blank."""

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that encode every text alike."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, each in 1..vocabulary_size - 1; raises UnknownSymbol."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens without blanks; raises ValueError for a number that is no token."""

    def save(self, folder: Path) -> None:
        """Write what ``load_tokenizer`` reads, and ``tokens.txt`` (symbol and number per line) for other programs."""


class TokenizerRecipe(Protocol):
    """The interface of ``tokenizer`` in a configuration: a recipe that loads or trains a tokenizer."""

    def fit(self, texts: Iterable[str]) -> Tokenizer:
        """Return the tokenizer, trained on ``texts`` if needed; the same texts give the same tokenizer."""


def normalise_text(text: str, case: Case) -> str:
    """One case, composed characters (NFC), single spaces between words and none around them."""
    folded = {"lower": text.lower, "upper": text.upper, "keep": text.__str__}[case]()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def _refuse(text: str, unknown: set[str], remedy: str) -> UnknownSymbol:
    named = ", ".join(f"{symbol!r} (U+{ord(symbol):04X})" for symbol in sorted(unknown))
    shown = text if len(text) <= 60 else text[:57] + "..."
    return UnknownSymbol(f"the tokenizer has no {named}, which the text {shown!r} needs; {remedy}")


def _check_ids(ids: Sequence[int], vocabulary_size: int) -> None:
    if wrong := [token for token in ids if not BLANK < token < vocabulary_size]:
        raise ValueError(f"{wrong[0]} is no token of text: tokens are 1 to {vocabulary_size - 1}, and 0 is blank")


def _save(folder: Path, settings: dict[str, Any], symbols: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SETTINGS_FILE).write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    table = "".join(f"{symbol} {token}\n" for token, symbol in enumerate(symbols))
    (folder / _TABLE_FILE).write_text(table, encoding="utf-8")


class CharacterTokenizer:
    """One token per character of an alphabet, in its order."""

    def __init__(self, *, alphabet: str, case: Case) -> None:
        self.case = case
        self.alphabet = unicodedata.normalize("NFC", alphabet)
        if not self.alphabet:
            raise UsageError("tokenizer.alphabet is empty; name the characters that texts are made of")
        if repeated := {symbol for symbol, count in Counter(self.alphabet).items() if count > 1}:
            raise UsageError(f"tokenizer.alphabet has {sorted(repeated)} more than once; name every character once")
        if lost := [symbol for symbol in self.alphabet if symbol != " " and normalise_text(symbol, case) != symbol]:
            raise UsageError(
                f"tokenizer.alphabet has {lost}, which no text has with tokenizer.case={case}; remove them"
            )
        self._token = {symbol: token for token, symbol in enumerate(self.alphabet, start=1)}

    @property
    def vocabulary_size(self) -> int:
        """Number of characters in the alphabet, plus blank."""
        return 1 + len(self.alphabet)

    @property
    def symbols(self) -> list[str]:
        """Blank, then the characters; the space is shown as ▁."""
        return [BLANK_SYMBOL, *self.alphabet.replace(" ", SPACE_SYMBOL)]

    @property
    def fingerprint(self) -> str:
        """A hash of the alphabet and the case."""
        return hashlib.sha256(json.dumps(["characters", self.alphabet, self.case]).encode()).hexdigest()[:16]

    def fit(self, texts: Iterable[str]) -> "CharacterTokenizer":
        """Return the tokenizer itself; characters need no training."""
        return self

    def encode(self, text: str) -> list[int]:
        """One token per character of the normalised text."""
        normal = normalise_text(text, self.case)
        if unknown := set(normal) - self._token.keys():
            raise _refuse(text, unknown, "add to tokenizer.alphabet or correct the text")
        return [self._token[symbol] for symbol in normal]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the characters, joined."""
        _check_ids(ids, self.vocabulary_size)
        return "".join(self.alphabet[token - 1] for token in ids)

    def save(self, folder: Path) -> None:
        """Write the alphabet and the table of tokens."""
        _save(folder, {"kind": "characters", "alphabet": self.alphabet, "case": self.case}, self.symbols)


class SentencePieceTokenizer:
    """Subword pieces of a sentencepiece model.

    Control pieces and <unk> are no tokens; the other pieces are numbered from 1 in the model's order.
    """

    def __init__(self, *, model: bytes, case: Case) -> None:
        self.model = model  # the serialised model
        self.case = case
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"\0")  # b"" it takes for none yet
        self._pieces = list(_written_pieces(self._processor))
        self._token = {piece: token for token, piece in enumerate(self._pieces, start=1)}

    @property
    def vocabulary_size(self) -> int:
        """Number of pieces that can be written, plus blank."""
        return 1 + len(self._pieces)

    @property
    def symbols(self) -> list[str]:
        """Blank, then the pieces; ▁ begins a word."""
        return [BLANK_SYMBOL, *(self._processor.id_to_piece(piece) for piece in self._pieces)]

    @property
    def fingerprint(self) -> str:
        """A hash of the model and the case."""
        return hashlib.sha256(self.model + self.case.encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """The most probable (unigram) or the merged (BPE) pieces of the normalised text."""
        normal = normalise_text(text, self.case)
        pieces: list[int] = self._processor.encode(normal)
        if any(piece not in self._token for piece in pieces):
            surfaces: list[str] = self._processor.encode(normal, out_type=str)
            unknown = {
                symbol
                for piece, surface in zip(pieces, surfaces, strict=True)
                if piece not in self._token
                for symbol in surface
            }
            raise _refuse(text, unknown, "correct the text, or train the model on texts that have it")
        return [self._token[piece] for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the pieces, joined."""
        _check_ids(ids, self.vocabulary_size)
        text: str = self._processor.decode([self._pieces[token - 1] for token in ids])
        return text

    def save(self, folder: Path) -> None:
        """Write the model and the table of tokens."""
        _save(folder, {"kind": "sentencepiece", "case": self.case}, self.symbols)
        (folder / _MODEL_FILE).write_bytes(self.model)


def _written_pieces(processor: sentencepiece.SentencePieceProcessor) -> Iterator[int]:
    for piece in range(processor.get_piece_size()):
        if not (processor.is_unknown(piece) or processor.is_control(piece) or processor.is_unused(piece)):
            yield piece


class SentencePieceRecipe:
    """Recipe of a sentencepiece tokenizer: load a model, or train one on the training texts."""

    def __init__(
        self, *, model: Path | None, vocabulary_size: Count, kind: Literal["unigram", "bpe"], case: Case
    ) -> None:
        self.model = model
        self.vocabulary_size = vocabulary_size
        self.kind = kind
        self.case = case

    def fit(self, texts: Iterable[str]) -> SentencePieceTokenizer:
        """Read ``tokenizer.model``, or train on ``texts``: repeatable, one thread, every character kept.

        A model may be named by its file, or by the folder that ``save`` wrote.

        Raises:
            ValueError: the model cannot be read, or has another size or case, or the texts do not yield so many pieces.
        """
        model = self._train(texts) if self.model is None else self._read(self.model)
        tokenizer = SentencePieceTokenizer(model=model, case=self.case)
        if tokenizer.vocabulary_size != self.vocabulary_size:
            raise UsageError(
                f"{self.model or 'the trained model'} has {tokenizer.vocabulary_size} tokens with blank, but "
                f"tokenizer.vocabulary_size={self.vocabulary_size}; set it to {tokenizer.vocabulary_size}"
            )
        return tokenizer

    def _read(self, model: Path) -> bytes:
        file = Path(model)
        if file.is_dir():
            saved = load_tokenizer(file)
            if not isinstance(saved, SentencePieceTokenizer) or saved.case != self.case:
                held = f"case {saved.case}" if isinstance(saved, SentencePieceTokenizer) else "characters"
                raise UsageError(f"tokenizer.model={model} was saved with {held}, but tokenizer.case={self.case}")
            return saved.model
        try:
            serialised = read_bytes(file, TOKENS)
            sentencepiece.SentencePieceProcessor(model_proto=serialised)
        except (ForeignError, RuntimeError) as error:
            raise UsageError(f"tokenizer.model={model} is no sentencepiece model that can be read: {error}") from None
        return serialised

    def _train(self, texts: Iterable[str]) -> bytes:
        normal = [normal for text in texts if (normal := normalise_text(text, self.case))]
        if not normal:
            raise UsageError("no training text to learn pieces from; name a trained model as tokenizer.model")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(normal),
                model_writer=model,
                model_type=self.kind,
                vocab_size=self.vocabulary_size,  # <unk> takes the place that blank has here
                character_coverage=1.0,
                max_sentence_length=1 + max(map(len, map(str.encode, normal))),  # longer ones would be dropped silently
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,  # the sums of several threads depend on their order
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).rsplit("] ", maxsplit=1)[-1].split(" Increase")[0]
            raise UsageError(
                f"tokenizer.vocabulary_size={self.vocabulary_size} does not fit the {len(normal)} training texts: {reason}"
            ) from None
        return model.getvalue()


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer that ``save`` wrote to ``folder``.

    Raises:
        ValueError: the folder holds no tokenizer, or one of another kind.
    """
    file = folder / _SETTINGS_FILE
    try:
        kind, case, alphabet = map(read_json(file).get, ("kind", "case", "alphabet"))
        if kind not in ("characters", "sentencepiece"):
            raise UsageError(f"{file}: unknown kind {str(kind)[:80]!r}; characters or sentencepiece")
        if case not in get_args(Case) or not (kind == "sentencepiece" or isinstance(alphabet, str)):
            raise ForeignError(file, "its case or its alphabet is missing, or none that there is")
        if kind == "characters":
            return CharacterTokenizer(alphabet=alphabet, case=case)  # type: ignore[arg-type]
        return SentencePieceTokenizer(model=read_bytes(folder / _MODEL_FILE, TOKENS), case=case)  # type: ignore[arg-type]
    except (ForeignError, RuntimeError) as error:
        raise UsageError(f"{folder} holds no tokenizer that can be read: {error}") from None
