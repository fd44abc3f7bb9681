"""Trains a tokenizer that several runs share, outside any run."""

import shutil
from pathlib import Path

from asr.data.tokenizer import SentencePieceTokenizer, Tokenizer
from asr.foreign.terminal import log_to_stderr, say
from asr.parts import build
from distributed.errors import UsageError
from scripts.composition.build import training_texts
from scripts.composition.compose import compose


def run(arguments: list[str]) -> None:
    """Read the texts, train the tokenizer, save it under a temporary name and rename it."""
    log_to_stderr()
    config = compose("train_tokenizer", arguments)
    out = Path(config.out)
    if out.exists():
        raise UsageError(f"out={out} exists, and runs may depend on it; choose another folder or remove it")
    texts = training_texts(build(config.data))
    tokenizer: Tokenizer = build(config.tokenizer).fit(texts)
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise UsageError("tokenizer=characters learns nothing from texts; choose tokenizer=sentencepiece")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    tokenizer.save(partial)
    partial.rename(out)
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    say(
        f"{out}: {tokenizer.vocabulary_size} tokens from {len(texts)} texts, "
        f"{sum(map(len, texts)) / tokens:.2f} characters per token",
        f"use it: tokenizer=sentencepiece tokenizer.model={out} tokenizer.vocabulary_size={tokenizer.vocabulary_size} "
        f"tokenizer.case={tokenizer.case}",
    )
