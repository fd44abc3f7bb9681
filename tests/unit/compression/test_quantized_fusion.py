"""Language models of few bits: passes and the hook make them as they make recognisers, and a search runs on codes from end to end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr.data.tokenizer import load_tokenizer
from asr.decoding.beam import BeamSearch
from asr.models.speech_model import SpeechModel
from asr.parts import build
from asr.runs.language_model import load_token_model
from asr.runs.model_folder import load_model, read_description
from asr.training.inference import states_of
from compression.quantization.codes import FLOAT, INTEGER, Engine
from compression.quantization.packed import PackedLayer
from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.composition.evaluation import named_set
from scripts.composition.trained import load_trained
from scripts.compress import main as compress
from scripts.evaluate import main as evaluate

Run = Callable[..., Path]
CPU = torch.device("cpu")
BEAM = ("decode=beam", "decode.beam=3", "decode.fusion.external_weight=1.5")


def packed(run: Path) -> Path:
    """The packed model folder of a run, at 4 bits."""
    compress([f"run={run}", "pass=int4"])
    compress([f"run={run}", "pass=pack", f"weights={run / 'export' / 'int4'}"])
    return run / "export" / "pack"


def set_engine(model: SpeechModel, engine: Engine) -> None:
    layers = [each for each in model.modules() if isinstance(each, PackedLayer)]
    assert layers
    for each in layers:
        each.compute_with(engine)


def test_a_packed_recogniser_and_a_packed_language_model_search_together(random_run: Run, random_lm_run: Run) -> None:
    run, lm = random_run("run"), random_lm_run("lm")
    model, words = packed(run), packed(lm)
    evaluate([f"run={run}", f"weights={model}", "sets=[dev]", *BEAM, f"decode.fusion.external={words}"])
    figures = json.loads((model / "eval" / "dev" / "wer-beam3-lm.json").read_text())
    assert figures["weights_sha256"] == [read_description(model)[1]]
    assert figures["language_models"]["external"] == {
        "checkpoint": "pack",
        "weights_sha256": [read_description(words)[1]],
    }


def test_engines_of_both_models_find_the_same_hypotheses_and_scores(random_run: Run, random_lm_run: Run) -> None:
    run, lm = random_run("run"), random_lm_run("lm")
    model, words = packed(run), packed(lm)
    trained = load_trained(run, "best", threads=1, weights=model)
    external = load_token_model(words, CPU, trained.speech.tokenizer)
    search: BeamSearch = build(compose("evaluate", [f"run={run}", *BEAM]).decode)
    alone = None
    found = []
    for engine in (FLOAT, INTEGER):
        set_engine(trained.model, engine)
        set_engine(external, engine)
        batch = next(iter(named_set(trained, "dev", 4).batches()))
        with torch.inference_mode():
            states = states_of(trained.recogniser, batch)
            found.append(search.with_models(external, None)(trained.recogniser, *states))
            alone = search(trained.recogniser, *states)
    assert found[0] == found[1]
    assert alone != found[0], "the language model takes part"


def test_a_language_model_of_codes_reads_as_the_quantised_one_does(random_lm_run: Run) -> None:
    lm = random_lm_run("lm", "model.predictor.layers=2")
    words = packed(lm)
    tokenizer = load_tokenizer(lm / "tokenizer")
    quantised, coded = (load_token_model(each, CPU, tokenizer) for each in (lm / "export" / "int4", words))
    exact = load_token_model(lm, CPU, tokenizer)
    inputs_BU = torch.randint(1, tokenizer.vocabulary_size, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        read = [each.log_probs(inputs_BU) for each in (exact, quantised, coded)]
    torch.testing.assert_close(read[2], read[1], rtol=1e-4, atol=1e-4)
    assert (read[1] - read[0]).abs().max() > 1e-3
    sizes = [(each / "model.safetensors").stat().st_size for each in (lm / "export" / "int4", words)]
    assert sizes[1] < sizes[0] / 2, "small as it is, with its header"


def test_a_language_model_is_trained_with_few_bits_and_packed(lm_run: Run) -> None:
    lm = lm_run("hooks=[qat_int4]", "trainer.max_steps=2", "evaluation.sets=[dev]", "trainer.evaluate_every=2")
    compress([f"run={lm}", "pass=pack"])
    loaded = load_model(lm / "export" / "pack")
    assert {name for name, each in loaded.model.named_modules() if isinstance(each, PackedLayer)} == {
        "predictor.embedding",
        "predictor.lstm",
        "output",
    }
    assert [each["pass"] for each in loaded.description.made_of] == ["pack"]


def test_a_recognisers_folder_is_refused_as_weights_of_a_language_model(random_run: Run, random_lm_run: Run) -> None:
    run, lm = random_run("run"), random_lm_run("lm")
    compress([f"run={run}", "pass=rewrite"])
    with pytest.raises(UsageError, match=r"hears other features than the run: features differ"):
        compress([f"run={lm}", "pass=int4", f"weights={run / 'export' / 'rewrite'}"])
