"""Tokenizers: text survives the way there and back, blank is 0, unknown symbols are refused by name."""

import pickle
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from asr.data.tokenizer import (
    BLANK,
    CharacterTokenizer,
    SentencePieceRecipe,
    SentencePieceTokenizer,
    Tokenizer,
    UnknownSymbol,
    load_tokenizer,
    normalise_text,
)

ALPHABET = " abcdefghijklmnopqrstuvwxyz'"
TEXTS = ["the cat sat on the mat", "a dog and a cat", "Hello world it's me", "one two three", "", "  "] * 3


def pieces(kind: str = "unigram", vocabulary_size: int = 26) -> SentencePieceTokenizer:
    recipe = SentencePieceRecipe(model=None, vocabulary_size=vocabulary_size, kind=kind, case="lower")
    return recipe.fit(TEXTS)


def characters() -> CharacterTokenizer:
    return CharacterTokenizer(alphabet=ALPHABET, case="lower")


TOKENIZERS = pytest.mark.parametrize(
    "tokenizer", [characters(), pieces("unigram"), pieces("bpe")], ids=["characters", "unigram", "bpe"]
)


@TOKENIZERS
@given(text=st.text(alphabet="THEcatsdogonmlwri' \t", max_size=30))
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == normalise_text(text, "lower")
    assert all(BLANK < token < tokenizer.vocabulary_size for token in ids)


@TOKENIZERS
def test_blank_is_zero_and_has_its_line_in_the_table(tokenizer: Tokenizer) -> None:
    assert tokenizer.symbols[BLANK] == "<blank>"
    assert len(tokenizer.symbols) == tokenizer.vocabulary_size
    ids = tokenizer.encode("the cat")
    assert "".join(tokenizer.symbols[token] for token in ids).strip("▁") == "the▁cat"
    assert "<unk>" not in tokenizer.symbols
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


@TOKENIZERS
def test_unknown_symbols_are_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnknownSymbol, match=r"no '7' \(U\+0037\), 'é' \(U\+00E9\), which the text 'cat é77' needs"):
        tokenizer.encode("cat é77")


@TOKENIZERS
@pytest.mark.parametrize("token", [-1, BLANK, 99])
def test_what_is_no_token_is_not_decoded(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(ValueError, match=f"^{token} is no token of text"):
        tokenizer.decode([1, token])


@TOKENIZERS
def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("the Cat") == tokenizer.encode("the Cat")
    table = (tmp_path / "tokenizer/tokens.txt").read_text().splitlines()
    assert table == [f"{symbol} {token}" for token, symbol in enumerate(tokenizer.symbols)]


@TOKENIZERS
def test_it_travels_between_processes(tokenizer: Tokenizer) -> None:
    assert pickle.loads(pickle.dumps(tokenizer)).encode("the cat") == tokenizer.encode("the cat")


def test_fingerprints_tell_tokenizers_apart() -> None:
    tokenizers: list[Tokenizer] = [
        characters(),
        CharacterTokenizer(alphabet=ALPHABET[::-1], case="lower"),
        CharacterTokenizer(alphabet=ALPHABET, case="keep"),
        pieces("unigram"),
        pieces("bpe"),
    ]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == len(tokenizers)


def test_characters_need_no_training() -> None:
    assert characters().fit(TEXTS).fingerprint == characters().fingerprint
    assert characters().encode(" A  cat ") == [2, 1, 4, 2, 21]


def test_composed_and_decomposed_characters_are_the_same() -> None:
    tokenizer = CharacterTokenizer(alphabet="e\u0301", case="lower")
    assert tokenizer.vocabulary_size == 2
    assert tokenizer.encode("\u00c9") == tokenizer.encode("e\u0301") == [1]


@pytest.mark.parametrize(
    ("alphabet", "case", "message"),
    [
        ("", "lower", "tokenizer.alphabet is empty"),
        ("abca", "lower", r"\['a'\] more than once"),
        ("abC", "lower", r"\['C'\], which no text has with tokenizer.case=lower"),
        ("a\tb", "keep", r"\['\\t'\], which no text has"),
    ],
)
def test_alphabets_that_cannot_work(alphabet: str, case: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CharacterTokenizer(alphabet=alphabet, case=case)


def test_training_is_repeatable_and_of_the_wanted_size() -> None:
    assert pieces().model == pieces().model
    assert pieces("bpe", 50).vocabulary_size == 50


def test_long_texts_are_not_left_out_of_the_training() -> None:
    """Sentencepiece drops sentences over 4192 bytes by default, and their characters with them."""
    recipe = SentencePieceRecipe(model=None, vocabulary_size=8, kind="bpe", case="keep")
    assert recipe.fit(["ab ba", "x" + " abc" * 2000]).encode("x")


def test_sizes_that_the_texts_do_not_yield() -> None:
    with pytest.raises(ValueError, match=r"vocabulary_size=1000 does not fit .* too high .* <= 27"):
        pieces(vocabulary_size=1000)
    with pytest.raises(ValueError, match=r"vocabulary_size=5 does not fit .*smaller than required_chars. 5 vs"):
        pieces(vocabulary_size=5)
    with pytest.raises(ValueError, match="no training text"):
        SentencePieceRecipe(model=None, vocabulary_size=5, kind="bpe", case="keep").fit([" "])


def test_a_model_of_others_keeps_its_control_pieces_out(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:4]),
        model_prefix=str(tmp_path / "theirs"),
        vocab_size=33,
        model_type="bpe",
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    recipe = SentencePieceRecipe(model=tmp_path / "theirs.model", vocabulary_size=30, kind="bpe", case="lower")
    tokenizer = recipe.fit([])
    assert not {"<unk>", "<s>", "</s>", "<pad>"} & set(tokenizer.symbols)
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    wrong = SentencePieceRecipe(model=tmp_path / "theirs.model", vocabulary_size=33, kind="bpe", case="lower")
    with pytest.raises(ValueError, match=r"theirs\.model has 30 tokens with blank, .* set it to 30"):
        wrong.fit([])


def test_a_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.model").write_bytes(b"no model")
    for name in ("bad.model", "none.model"):
        recipe = SentencePieceRecipe(model=tmp_path / name, vocabulary_size=30, kind="bpe", case="lower")
        with pytest.raises(ValueError, match=f"tokenizer.model=.*{name}"):
            recipe.fit([])


@pytest.mark.parametrize("content", [None, "{", "{}", '{"kind": "runes"}'])
def test_a_folder_without_a_tokenizer_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=tmp_path.name):
        load_tokenizer(tmp_path)
