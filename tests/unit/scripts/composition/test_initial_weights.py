"""``init_from``: an encoder taken from a CTC run, a prediction network from a language model, what stays fresh, and what is refused."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from asr.data.tokenizer import load_tokenizer
from asr.models.ctc import CtcModel
from asr.models.transducer import Transducer
from asr.runs.language_model import load_token_model
from asr.training.trainer import Trainer
from distributed.errors import UsageError
from distributed.learners.world import World
from scripts.composition.initial_weights import InitialWeights, select
from scripts.composition.trained import load_trained

Config = Callable[..., DictConfig]
Make = Callable[..., Trainer]
ENCODER = ("model.encoder.layers=1", "model.encoder.dimension=16", "model.encoder.heads=2")
STEPS = ("backend=single", "trainer.max_steps=2", "hooks=[]", "evaluation.sets=[dev]", *ENCODER)
REST = ("model=conformer_tiny", "model.predictor.dimension=16", "model.joiner.dimension=16")


@pytest.fixture(scope="module")
def ctc_run(small_config: Config, finished_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CTC model trained for two steps, which all tests read."""
    return finished_run(small_config("model=ctc_conformer_tiny", *STEPS), tmp_path_factory.mktemp("runs") / "ctc")


@pytest.fixture
def start(small_config: Config, make_trainer: Make, tmp_path: Path, alone: World) -> Callable[..., Transducer]:
    """``start(*overrides)``: the transducer of a run that has not made a step yet."""

    def make(*overrides: str) -> Transducer:
        model = make_trainer(small_config(*REST, *STEPS, *overrides), tmp_path / "next", alone).parts.run.model
        assert isinstance(model, Transducer)
        return model.eval()

    return make


def weights(model: Transducer, without: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith(without)}


@pytest.mark.parametrize("modules", [("encoder",), ("encoder", "ctc_head")], ids="+".join)
def test_modules_of_a_ctc_run_are_taken_over_bitwise_and_the_rest_is_fresh(
    ctc_run: Path, start: Callable[..., Transducer], modules: tuple[str, ...]
) -> None:
    source = load_trained(ctc_run, "best", threads=1).model
    assert isinstance(source, CtcModel)
    model, fresh = start(f"init_from={ctc_run}", f"init_modules=[{','.join(modules)}]"), start()
    features, lengths = torch.randn(2, 30, 20), torch.tensor([30, 17])
    with torch.no_grad():
        states, expected, untrained = (each.encode(features, lengths)[0] for each in (model, source, fresh))
    assert torch.equal(states, expected)
    assert not torch.equal(states, untrained)
    assert model.ctc_head is not None
    assert torch.equal(model.ctc_head.weight, source.ctc_head.weight) == ("ctc_head" in modules)
    rest, drawn = weights(model, modules), weights(fresh, modules)
    assert rest
    assert all(torch.equal(rest[name], drawn[name]) for name in drawn)


def test_networks_of_language_models_and_predictors_are_interchangeable(
    small_config: Config,
    lm_config: Config,
    lm_run: Callable[..., Path],
    make_trainer: Make,
    tmp_path: Path,
    alone: World,
) -> None:
    lm, size = lm_run("trainer.max_steps=2"), ("model.predictor.embedding=8", "model.predictor.dimension=24")
    source = load_token_model(lm, torch.device("cpu"), load_tokenizer(lm / "tokenizer")).predictor.state_dict()
    taken = f"init_from={lm}", "init_modules=[predictor]"
    config = small_config(*STEPS, "model=conformer_tiny", *size, "model.joiner.dimension=16", *taken)
    trainer = make_trainer(config, tmp_path / "next", alone)
    model = trainer.parts.run.model
    assert isinstance(model, Transducer)
    assert all(torch.equal(value, source[name]) for name, value in model.predictor.state_dict().items())
    trainer.fit(None)
    trainer.parts.recorder.close()
    assert not all(torch.equal(value, source[name]) for name, value in model.predictor.state_dict().items())
    OmegaConf.save(config, tmp_path / "next" / "config.yaml")
    back = lm_config(f"init_from={tmp_path / 'next'}", "init_modules=[predictor]")
    fresh = make_trainer(back, tmp_path / "back", alone)
    fresh.parts.recorder.close()
    trained = {name: value for name, value in model.state_dict().items() if name.startswith("predictor.")}
    assert trained
    assert all(torch.equal(fresh.parts.run.model.state_dict()[name], value) for name, value in trained.items())


def test_a_ctc_run_is_evaluated_by_words_and_ends_with_its_figures(ctc_run: Path) -> None:
    rows = (ctc_run / "metrics" / "0.jsonl").read_text()
    assert "eval/dev/wer" in rows
    assert "train/ctc_impossible" in rows


def test_an_encoder_needs_no_common_tokens_but_all_else_does(ctc_run: Path, start: Callable[..., Transducer]) -> None:
    longer = "tokenizer.alphabet=' abcdefghijklmnopqrstuvwyß'"
    in_another_order = """tokenizer.alphabet='abcdefghijklmnopqrstuvwxyz\\' '"""
    assert start(f"init_from={ctc_run}", "init_modules=[encoder]", longer)
    for other, letters in (
        (longer, r""" of another alphabet \(it has no 'ß'; this run has no "'", 'x', 'z'\)"""),
        (in_another_order, ""),
    ):
        with pytest.raises(UsageError, match=rf"writes other tokens{letters}; .* init_modules=\[encoder\]"):
            start(f"init_from={ctc_run}", "init_modules=[encoder,ctc_head]", other)


def test_blocks_that_read_other_entries_are_refused_though_shapes_agree(
    small_config: Callable[..., DictConfig], finished_run: Callable[..., Path], make_trainer: Callable[..., Trainer],
    alone: World, tmp_path: Path,
) -> None:  # fmt: skip
    def config(width: str, *overrides: str) -> DictConfig:
        sizes = "feed_forward_in: 8, heads: 2, channels: 8, feed_forward_out: 8"
        blocks = f"model.encoder.blocks=[{{{sizes}, width: {width}}}]"
        small = ("backend=single", "model=conformer_tiny", "model.encoder.layers=1", "model.encoder.dimension=16")
        return small_config(*small, "model.encoder.heads=2", "trainer.max_steps=1", blocks, *overrides)

    first = finished_run(config("[0,3,9]"), tmp_path / "first")
    make_trainer(config("[0,3,9]", f"init_from={first}"), tmp_path / "same", alone).parts.recorder.close()
    with pytest.raises(UsageError, match=rf"read other entries of the states .*; add model_of={first}$"):
        make_trainer(config("[0,3,10]", f"init_from={first}"), tmp_path / "other", alone)


def test_differing_features_are_reported(
    ctc_run: Path, start: Callable[..., Transducer], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        start(f"init_from={ctc_run}", "init_modules=[encoder]", "features.normalise=none")
    assert "hears other features: normalise differ" in caplog.text


@pytest.mark.parametrize("modules", ["null", "[encoder]"])
def test_features_of_another_size_are_named_with_the_value_needed(
    ctc_run: Path, start: Callable[..., Transducer], modules: str
) -> None:
    with pytest.raises(
        UsageError, match=r"hears features of another size; set features\.num_mels=20 features\.deltas=0$"
    ):
        start(f"init_from={ctc_run}", f"init_modules={modules}", "features.num_mels=16", "features.deltas=1")


def test_a_setting_that_is_not_set_is_advised_as_it_is_typed() -> None:
    weights = {"encoder.weight": torch.ones(2, 3)}
    initial = InitialWeights(Path("a"), weights, None, 0, {"num_mels": 20, "deltas": None}, "init_from=a")
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(4, 2, bias=False)})
    with pytest.raises(UsageError, match=r"set features\.num_mels=20 features\.deltas=null$"):
        initial.load_into(model)


def test_features_are_not_blamed_for_modules_that_hear_none(ctc_run: Path, start: Callable[..., Transducer]) -> None:
    with pytest.raises(UsageError, match="that model has no such weights"):
        start(f"init_from={ctc_run}", "init_modules=[joiner]", "features.num_mels=16")


REFUSED = {
    "depthwise.weight_DK is of shape (16, 15) in that model": ["init_modules=[encoder]", "model.encoder.kernel=7"],
    "init_modules=[encodr]: this model has no such weights; it has encoder": ["init_modules=[encodr]"],
    "that model has no such weights; it has ctc_head, encoder": ["init_modules=[joiner]"],
    "joiner.output.bias is missing in that model and of shape (29,) here": [],
}


def test_what_does_not_fit_is_refused_in_one_line(ctc_run: Path, start: Callable[..., Transducer]) -> None:
    for message, overrides in REFUSED.items():
        with pytest.raises(UsageError) as caught:
            start(f"init_from={ctc_run}", *overrides)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_modules_that_would_not_be_loaded_are_refused(ctc_run: Path, start: Callable[..., Transducer]) -> None:
    with pytest.raises(UsageError, match=r"init_modules=\[encoder\] loads nothing; add init_from=exp/\.\.\. to take"):
        start("init_modules=[encoder]")
    with pytest.raises(UsageError, match=r"init_modules=\[\] loads nothing; null takes the whole model"):
        start(f"init_from={ctc_run}", "init_modules=[]")


def test_nested_modules_are_chosen_by_whole_names() -> None:
    state = {"encoder.blocks.1.w": torch.ones(1), "encoder.blocks.10.w": torch.ones(1), "head.w": torch.ones(1)}
    assert list(select(state, state, ["encoder.blocks.1"], "x")) == ["encoder.blocks.1.w"]
    assert len(select(state, state, None, "x")) == 3
