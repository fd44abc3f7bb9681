"""Small models of every kind, batches of them, their quantised twins, and masks."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from asr.data.batch import Batch
from asr.data.tokenizer import CharacterTokenizer
from asr.models.speech_model import SpeechModel
from asr.parts import build, plain
from asr.runs.model_folder import Description, LoadedModel
from asr.training.inference import Inference
from compression.pruning.masked_forward import attach
from compression.pruning.masks import Masks
from compression.pruning.sites import sites
from compression.quantization.calibration import calibrate
from compression.quantization.transform import transform_node
from scripts.composition.compose import compose
from tests.models import UNTRAINED, save_random_model

SIZES = {"vocabulary_size": 11, "feature_dimension": 12}
SMALL = {
    "conformer": ["model=conformer_tiny", "model.encoder.dimension=16", "model.encoder.layers=2", "model.joiner.dimension=16"],
    "lstm": ["model=lstm_tiny", "model.encoder.hidden=8", "model.encoder.layers=3", "model.joiner.dimension=8"],
    "stateless": ["model=lstm_tiny", "model.encoder.hidden=8", "model.joiner.dimension=8", "model/predictor=stateless"],
    "ctc": ["model=ctc_ibm_lstm", "model.encoder.hidden=8", "model.encoder.layers=2"],
    "acoustic": ["model=dblstm_4", "model.encoder.hidden=8", "model.bottleneck=8"],
}  # fmt: skip
SMALL["chunked"] = [*SMALL["conformer"], "model.encoder.chunk=2", "model.encoder.left_chunks=2"]
SMALL["pruned loss"] = [*SMALL["conformer"], "model/loss=pruned"]
SMALL["product"] = [*SMALL["lstm"], "model.joiner.combine=multiply"]
TOKENIZER = CharacterTokenizer(alphabet="abcdefghij", case="lower")
DEFAULTS = {"bits": 4, "weights": "sawb_plus", "groups": "gate", "inputs": "pact_plus", "hidden": "fixed"}
EVERYTHING = [{"modules": "*"}]


@cache
def node_of(kind: str) -> dict[str, Any]:
    """The node of a model of the table."""
    return plain(compose("train", SMALL[kind]).model) | SIZES


@pytest.fixture
def small_model() -> Callable[..., SpeechModel]:
    """``small_model(kind)``: a model of the table, in evaluation mode; the same weights every time."""

    def make(kind: str) -> SpeechModel:
        torch.manual_seed(0)
        model: SpeechModel = build(node_of(kind))
        return model.eval()

    return make


@pytest.fixture
def loaded_model() -> Callable[..., LoadedModel]:
    """``loaded_model(kind)``: a model of the table as from a folder; weights, biases and norms drawn at random."""

    def make(kind: str) -> LoadedModel:
        torch.manual_seed(0)
        node = node_of(kind)
        description = Description(model=node, features=None, tokenizer=TOKENIZER.fingerprint)
        model = build(node).eval()
        with torch.no_grad():
            for each in model.parameters():
                each.add_(0.1 * torch.randn_like(each))
        return LoadedModel(model, None, TOKENIZER, description, {"checkpoint": "drawn"})

    return make


@pytest.fixture
def masked() -> Callable[..., Masks]:
    """``masked(model, kinds)``: masks drawn at random of these kinds (None: of all), attached to the model."""

    def make(model: SpeechModel, kinds: list[str] | None = None, **settings: Any) -> Masks:
        torch.manual_seed(3)
        masks = Masks(sites(model, kinds), **({"dropped": 0.01, "minimum": 0.1, "multiple_of": 1} | settings))
        with torch.no_grad():
            for place, site in enumerate(masks.sites):
                each = masks.mask(site.name).log_alpha
                each.copy_(2 * torch.randn_like(each) if site.size > 1 else torch.tensor([3.0 * (-1) ** place]))
        attach(model, masks)
        return masks

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """``make_batch(frames, tokens)``: utterances of these lengths."""

    def make(frames: list[int], tokens: list[int]) -> Batch:
        generator = torch.Generator().manual_seed(7)
        features = torch.randn(len(frames), max(frames), 12, generator=generator)
        targets = torch.randint(1, 11, (len(tokens), max(tokens)), generator=generator)
        for row, (length, labels) in enumerate(zip(frames, tokens, strict=True)):
            features[row, length:], targets[row, labels:] = 0, 0
        return Batch(
            utterance_ids=[f"u{row}" for row in range(len(frames))],
            features=features,
            feature_lengths=torch.tensor(frames),
            targets=targets,
            target_lengths=torch.tensor(tokens),
            predictor_inputs=targets,
            weight=float(len(frames)),
            frame_targets=torch.zeros(len(frames), max(frames), dtype=torch.int64),
        )

    return make


@pytest.fixture
def quantized(make_batch: Callable[..., Batch]) -> Callable[..., Any]:
    """``quantized(model, scheme, **defaults)``: the model with calibrated twins, in evaluation mode."""

    def make(model: SpeechModel, scheme: list[dict[str, Any]] = EVERYTHING, **defaults: Any) -> SpeechModel:
        model = build(transform_node(scheme, "scheme", **(DEFAULTS | defaults)))(model)
        calibrate(Inference(model, torch.device("cpu"), "fp32"), [make_batch([40, 33], [4, 3])], 1)
        return model.eval()

    return make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """The teachers that were made so far, by their overrides."""
    return {(): tmp_path_factory.mktemp("teachers")}  # () is their folder


@pytest.fixture
def teacher(small_config: Callable[..., DictConfig], made: dict[tuple[str, ...], Path]) -> Callable[..., Path]:
    """``teacher(*overrides)``: the model folder of a model with random weights, of seed 2 unless they say otherwise."""

    def make(*overrides: str) -> Path:
        key = ("seed=2", *overrides)
        if key not in made:
            work = made[()] / str(len(made))
            work.mkdir()
            made[key] = save_random_model(small_config(*UNTRAINED, *key), work, work / "teacher")
        return made[key]

    return make
