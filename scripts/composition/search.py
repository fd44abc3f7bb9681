"""The search of a configuration, with the language models that it names."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr.data.tokenizer import Tokenizer
from asr.decoding.beam import BeamSearch
from asr.decoding.fusion import FusedTerms, Fusion
from asr.models.speech_model import SpeechModel
from asr.models.token_lm import TokenLanguageModel
from asr.parts import plain
from asr.runs.fingerprint import weights_fingerprint
from asr.runs.language_model import load_token_model, origin_of_language_model
from asr.training.measures import Decode

NAMES = ("external", "source")  # keys of the language models in decode.fusion


def search_of(decode: DictConfig) -> dict[str, Any]:
    """A search's settings, with absolute paths of language models: the same from every working directory."""
    settings = plain(decode)
    fusion = settings.get("fusion") or {}
    fusion |= {name: str(Path(fusion[name]).resolve()) for name in NAMES if fusion.get(name)}
    return settings


def language_model_origins(decode: DictConfig) -> dict[str, dict[str, Any]]:
    """Identifies the present weights of each language model that a search names (name and digests).

    Raises:
        UsageError: a folder holds no intact checkpoint.
    """
    fusion = decode.get("fusion") or {}
    return {
        name: origin_of_language_model(Path(fusion[name]), f"decode.fusion.{name}")
        for name in NAMES
        if fusion.get(name)
    }


def with_language_models(decode: Decode, model: SpeechModel, tokenizer: Tokenizer) -> Decode:
    """The search with its language models loaded; see ``language_models``."""
    if not isinstance(decode, BeamSearch) or not decode.fusion.names_models:
        return decode
    return decode.with_models(*language_models(decode.fusion, model, tokenizer))


def language_model_fingerprints(decode: object) -> list[int]:
    """Fingerprints of the language models used in a search, the external before the source model.

    They are taken of the loaded weights, as the folders may hold others by now. A model of weight 0 is not used.
    """
    if not isinstance(decode, BeamSearch) or not isinstance(decode.terms, FusedTerms):
        return []
    return [weights_fingerprint(model) for _, model in decode.terms.models if isinstance(model, TokenLanguageModel)]


def language_models(
    fusion: Fusion, model: SpeechModel, tokenizer: Tokenizer
) -> tuple[TokenLanguageModel | None, TokenLanguageModel | None]:
    """The external and the source language model, each or None, on the recogniser's device and in its dtype.

    Raises:
        UsageError: a folder holds no run of a language model, or one of other tokens.
    """
    weight = next(model.parameters())
    folders = {"external": fusion.external, "source": fusion.source}
    external, source = (
        None
        if folder is None
        else load_token_model(Path(folder), weight.device, tokenizer, f"decode.fusion.{name}").to(weight.dtype)
        for name, folder in folders.items()
    )
    return external, source
