"""The hook layerwise_distillation on real models: what it compares, and that parts add up."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from asr.data.batch import Batch
from asr.models.encoder import padding_mask
from asr.models.speech_model import SpeechModel
from asr.runs.model_folder import load_model
from asr.training.trainer import Trainer
from compression.distillation.hook import LayerwiseDistillation
from compression.distillation.views import View, Wanted
from distributed.learners.world import World
from tests.models import UNTRAINED

KEY = "hooks.layerwise_distillation"
NO_DROPOUT = ("model.encoder.dropout=0", "model.predictor.dropout=0", "model.predictor.embedding_dropout=0")
EVERY_TERM = (f"{KEY}.ctc_weight=0.3", f"{KEY}.transducer_weight=2", f"{KEY}.temperature=1.5")
CONFORMER = (
    "model=conformer_tiny", "model.encoder.layers=2", "model.encoder.dimension=16", "model.encoder.heads=2",
    "model.predictor.dimension=16", "model.joiner.dimension=16",
)  # fmt: skip
TERMS = ("layer_distillation", "ctc_distillation", "transducer_distillation")

Make = Callable[..., Any]


@pytest.fixture
def start(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> Iterator[Callable[..., Trainer]]:
    """``start(teacher, *overrides)``: a trainer that distils, before its first step."""
    trainers: list[Trainer] = []

    def make(folder: Path, *overrides: str) -> Trainer:
        named = [each for each in overrides if each.startswith("hooks=")]
        hooks = named or ["hooks=[layerwise_distillation]"]
        rest = [each for each in overrides if each not in named]
        config = small_config(*UNTRAINED, *hooks, f"{KEY}.teacher={folder}", *rest)
        trainers.append(make_trainer(config, tmp_path / f"run{len(trainers)}", alone))
        for hook in trainers[-1].parts.hooks.values():
            hook.on_fit_start(trainers[-1].parts.run, resumed=False)
        return trainers[-1]

    yield make
    for each in trainers:
        each.parts.recorder.close()


def hook_of(trainer: Trainer) -> LayerwiseDistillation:
    hook = trainer.parts.hooks["layerwise_distillation"]
    assert isinstance(hook, LayerwiseDistillation)
    return hook


def unit_of(trainer: Trainer) -> Batch:
    return trainer.parts.dataset[trainer.parts.plan.epoch(0)[0][0]]


def run_parts(trainer: Trainer, *parts: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The logged terms, summed, and the gradients of the loss of some parts of a unit."""
    model = trainer.parts.run.model
    model.train()
    for parameter in model.parameters():
        parameter.grad = None
    done = [trainer.parts.objective.backward(part, 1.0, part is parts[-1]) for part in parts]
    sums: dict[str, float] = {}
    for terms in (each for own in done for each in own):
        for name, value in [*terms.sums.items(), ("total", terms.value)]:
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums, {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("kind", ["conformer", "lstm", "ctc", "acoustic"])
def test_a_view_sees_the_states_that_the_model_gives_out(kind: str, small_model: Make, make_batch: Make) -> None:
    model, batch = small_model(kind), make_batch([50, 30, 21], [4, 2, 3])
    view = View(model, Wanted([0, len(model.encoder.layers) - 1], ctc=False, transducer=False))
    output = model(batch)
    lengths = model.encoder.state_lengths(batch.feature_lengths)
    first, last = view.take(batch).layers
    padding = padding_mask(lengths, output.encoder_states.shape[1]).unsqueeze(-1)
    assert torch.equal(last.masked_fill(padding, 0.0), output.encoder_states)
    sizes = model.encoder.layer_dimensions
    assert [first.shape[2], last.shape[2]] == [sizes[0], sizes[-1]]
    for seen, again in zip((first, last), view.observe(batch).layers, strict=True):
        torch.testing.assert_close(again.masked_fill(padding, 0.0), seen.masked_fill(padding, 0.0))
    view.remove()


@pytest.mark.parametrize("model", [(), CONFORMER], ids=["lstm", "conformer"])
def test_parts_of_a_unit_add_up_also_where_memory_was_short_for_the_teacher(
    model: tuple[str, ...], teacher: Make, start: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = start(teacher(*model), *model, "trainer.precision=fp64", *NO_DROPOUT, *EVERY_TERM)
    batch = unit_of(trainer)
    assert len(batch.utterance_ids) == 2
    whole, gradients = run_parts(trainer, batch)
    parts, summed = run_parts(trainer, batch.part(0, 1), batch.part(1, 2))
    assert whole.keys() == parts.keys() >= {*TERMS}
    assert all(parts[name] == pytest.approx(value, rel=1e-9) for name, value in whole.items())
    assert all(whole[name] > 0 for name in TERMS)
    assert "auxiliary.layerwise_distillation.maps.0.weight" in gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-9, atol=1e-12)
    views = hook_of(trainer).views
    assert views is not None
    observe = views[1].observe

    def short_of_memory(part: Batch) -> Any:
        if len(part.utterance_ids) > 1:
            raise torch.OutOfMemoryError
        return observe(part)

    monkeypatch.setattr(views[1], "observe", short_of_memory)
    halved, again = run_parts(trainer, batch)
    assert trainer.parts.memory.exhausted == 1
    assert halved == parts
    assert all(torch.equal(again[name], each) for name, each in summed.items())
    alone = whole["rnnt"] + 0.3 * whole["ctc"]
    assert whole["total"] == pytest.approx(alone + sum(whole[name] for name in TERMS), rel=1e-9)


def test_a_teacher_that_fails_half_way_keeps_no_states(small_model: Make, make_batch: Make) -> None:
    model = small_model("lstm")
    view = View(model, Wanted([0, 1], ctc=False, transducer=True))
    kept: list[int] = []

    def out_of_memory(module: Any, inputs: Any) -> None:
        kept.append(len(view.taps._outputs))
        raise torch.OutOfMemoryError

    handle = model.predictor.register_forward_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        view.observe(make_batch([40, 33], [4, 3]))
    assert kept == [3], "two layers and the projection of the encoder"
    assert view.taps.take() == {}
    handle.remove()
    assert len(view.observe(make_batch([40, 33], [4, 3])).layers) == 2


@pytest.mark.parametrize("model", [(), CONFORMER], ids=["lstm", "conformer"])
def test_a_copy_of_the_teacher_hears_and_reads_what_the_teacher_does(
    model: tuple[str, ...], teacher: Make, start: Make
) -> None:
    """Features are augmented and the history is another one: the distances are 0 if both are the same for both."""
    folder = teacher(*model)
    hooks = ("hooks=[spec_augment,layerwise_distillation]", "hooks.spec_augment.time_width=5")
    exact = ("trainer.precision=fp64", *NO_DROPOUT, *EVERY_TERM)
    trainer = start(folder, *model, *hooks, *exact, f"init_from={folder}")
    batch = unit_of(trainer)
    sums, _ = run_parts(trainer, replace(batch, predictor_inputs=batch.targets.flip(1)))
    assert all(abs(sums[name]) < 1e-12 for name in TERMS)


def test_the_teacher_stays_as_it_is_and_an_emptied_unit_moves_no_map(teacher: Make, start: Make) -> None:
    trainer = start(teacher(), *EVERY_TERM)
    hook, batch = hook_of(trainer), unit_of(trainer)
    assert hook.views is not None
    model = hook.views[1].model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run_parts(trainer, batch)
    assert not any(each.training for each in model.modules())
    assert not any(each.requires_grad or each.grad is not None for each in model.parameters())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    inside = {id(each) for each in trainer.parts.run.model.modules()}
    assert not inside & {id(each) for each in model.modules()}
    (group,) = [each for each in trainer.parts.optimizer.param_groups if each["name"] == "layerwise_distillation"]
    assert group["weight_decay"] == 0
    assert [tuple(each.shape) for each in group["params"]] == [(32, 32)]
    names = ("features", "feature_lengths", "targets", "target_lengths", "predictor_inputs")
    cut = {name: getattr(batch, name)[:0] for name in names}
    sums, gradients = run_parts(trainer, replace(batch, utterance_ids=[], weight=0.0, **cut))
    assert sums["total"] == 0
    assert gradients["auxiliary.layerwise_distillation.maps.0.weight"].eq(0).all()


def test_a_smaller_student_has_a_map_for_each_of_its_layers(teacher: Make, start: Make) -> None:
    folder = teacher("model.encoder.layers=4", "model.encoder.hidden=[[8,8],[8,8],[7,7],[9,9]]")
    trainer = start(folder, "model.encoder.layers=2", "model.encoder.hidden=[[5,3],[6,6]]")
    assert hook_of(trainer).pairs == [(0, 1), (1, 3)]
    maps = hook_of(trainer).maps
    assert maps is not None
    assert [tuple(each.weight.shape) for each in maps.maps] == [(8, 16), (12, 18)]
    _, gradients = run_parts(trainer, unit_of(trainer))
    assert all(gradients[f"auxiliary.layerwise_distillation.maps.{place}.weight"].any() for place in (0, 1))


def test_layers_may_be_named(teacher: Make) -> None:
    folder = teacher(*CONFORMER)
    hook = LayerwiseDistillation(
        teacher=folder, weight=1.0, layers=[(1, 0)], ctc_weight=0.0, transducer_weight=0.0, temperature=1.0
    )
    assert hook.on_auxiliary(load_model(folder).model) is hook.maps
    assert hook.pairs == [(1, 0)]
    assert hook.maps is not None
    assert [tuple(each.weight.shape) for each in hook.maps.maps] == [(16, 16)]


def test_posteriors_alone_need_no_maps(teacher: Make, start: Make) -> None:
    trainer = start(teacher(), f"{KEY}.weight=0", f"{KEY}.transducer_weight=1")
    sums, _ = run_parts(trainer, unit_of(trainer))
    assert sums["transducer_distillation"] > 0
    assert "layer_distillation" not in sums
    assert not [name for name, _ in trainer.parts.run.model.named_parameters() if name.startswith("auxiliary")]


def test_under_bf16_distances_are_summed_in_fp32(teacher: Make, start: Make) -> None:
    model = (*CONFORMER, "model/predictor=stateless", "model.encoder.dropout=0", "model.predictor.dropout=0")
    folder = teacher(*model)
    found = []
    for precision in ("fp32", "bf16"):
        trainer = start(folder, *model, *EVERY_TERM, f"trainer.precision={precision}")
        terms = trainer.parts.objective.forward(unit_of(trainer), trainer.parts.objective.passes[0], True)
        assert terms is not None
        assert all(terms.sums[name].dtype == torch.float32 for name in TERMS)
        found.append([float(terms.sums[name]) for name in TERMS])
    assert found[1] == pytest.approx(found[0], rel=0.1)
    assert found[1] != found[0]


def test_a_quantised_student_is_distilled(teacher: Make, start: Make) -> None:
    folder = teacher(*CONFORMER)
    hooks = "hooks=[qat_int4,layerwise_distillation]"
    trainer = start(folder, *CONFORMER, hooks, *EVERY_TERM, *NO_DROPOUT, f"init_from={folder}")
    sums, gradients = run_parts(trainer, unit_of(trainer))
    assert all(sums[name] > 0 for name in TERMS), "its rounding errors"
    assert all(gradients[name].isfinite().all() for name in gradients)
    assert type(trainer.parts.run.model.auxiliary["layerwise_distillation"].maps[0]) is torch.nn.Linear


def test_a_student_that_is_pruned_meanwhile_is_distilled_through_its_masks(teacher: Make, start: Make) -> None:
    """The states are those of the masks that were drawn; a closed entry is 0 and costs nothing once its row is 0."""
    folder, closed = teacher(*CONFORMER), 3
    hooks = "hooks=[structured_pruning,layerwise_distillation]"
    trainer = start(folder, *CONFORMER, hooks, *EVERY_TERM, *NO_DROPOUT, f"init_from={folder}")
    pruning: Any = trainer.parts.hooks["structured_pruning"]
    maps = hook_of(trainer).maps
    assert maps is not None
    width = pruning.pruning.masks.mask("encoder.width").log_alpha
    with torch.no_grad():
        width[closed] = -50
        for each in maps.maps:
            each.weight[closed] = 0
    sums, gradients = run_parts(trainer, unit_of(trainer))
    assert all(sums[name] > 0 for name in TERMS)
    assert all(each.isfinite().all() for each in gradients.values())
    for place in range(2):
        by_map = gradients[f"auxiliary.layerwise_distillation.maps.{place}.weight"]
        assert by_map[closed].eq(0).all()
        assert by_map.any(1).sum() == 15
    masks = [name for name in gradients if name.startswith("auxiliary.structured_pruning") and "feed_forward" in name]
    assert masks
    assert all(gradients[name].any() for name in masks)


def test_an_acoustic_model_is_distilled_segment_by_segment(small_model: Make, make_batch: Make) -> None:
    student: SpeechModel = small_model("acoustic")
    batch = make_batch([50, 30], [4, 2])
    wide = View(student, Wanted([0], ctc=False, transducer=False)).observe(batch).layers[0]
    assert wide.shape[:2] == batch.features.shape[:2]
