"""What masks cost: operations against torch's own count, gradients, tables of latencies, and that targets are reached."""

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from asr.models.speech_model import Recogniser, SpeechModel
from asr.parts import build, plain
from asr.runs.model_folder import LoadedModel
from compression.pruning.costs import Cost, Extent, full_sizes, operations, parameters
from compression.pruning.hook import StructuredPruning
from compression.pruning.lagrangian import Multipliers, target_at
from compression.pruning.latency import Latency, Table, as_json, interpolated, measure, points_of, read_tables, table_of
from compression.pruning.masks import Masks
from compression.pruning.parts import parts_of
from compression.pruning.removal import removed
from compression.pruning.sites import sites
from compression.pruning.units import Site
from distributed.errors import UsageError
from scripts.bench.pruning import model_of, settled
from scripts.composition.compose import compose

EXTENT = Extent(40)


def invented_tables(encoder: torch.nn.Module, found: list[Site]) -> dict[str, Table]:
    """Tables in which a part takes the product of its sizes and a constant, to the power of 0.9."""
    tables, parts = {}, parts_of(encoder, found)
    for kind in {part.kind for part in parts}:
        same = [part.sizes for part in parts if part.kind == kind]
        points = [points_of(sizes) for sizes in zip(*same, strict=True)]
        grid = torch.tensor(list(itertools.product(*points)), dtype=torch.float64)
        tables[kind] = table_of(points, 1e-3 * grid.prod(1).pow(0.9))
    return tables


def costs_of(model: SpeechModel, found: list[Site]) -> dict[str, Cost]:
    """The three costs."""
    assert isinstance(model, Recogniser)
    return {
        "parameters": parameters(model, found, "encoder"),
        "flops": operations(model, found, "encoder", EXTENT),
        "milliseconds": Latency(parts_of(model.encoder, found), invented_tables(model.encoder, found)),
    }


def test_operations_are_those_that_torch_counts(
    loaded_model: Callable[..., LoadedModel], masked: Callable[..., Masks]
) -> None:
    loaded = loaded_model("conformer")
    found = sites(loaded.model)
    cost = operations(loaded.model, found, "encoder", EXTENT)
    masks = masked(loaded_model("conformer").model)
    sizes = {name: torch.tensor(float(len(each.indices))) for name, each in masks.kept().items()}
    for model, counts in ((loaded.model, full_sizes(found)), (removed(loaded, masks.kept()).model, sizes)):
        assert isinstance(model, Recogniser)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encode(torch.randn(1, 40, 12), torch.tensor([40]))
        assert float(cost(counts)) == counter.get_total_flops()


def test_operations_of_the_whole_model_grow_with_what_decodes(loaded_model: Callable[..., LoadedModel]) -> None:
    model = loaded_model("lstm").model
    found = sites(model)
    encoder, whole = (operations(model, found, scope, Extent(100)) for scope in ("encoder", "model"))
    sizes = full_sizes(found)
    cells, embedding = 128, 64
    steps, states, joint, classes = 5, 25, 8, 11
    predictor = 2 * steps * 4 * cells * (cells + embedding) + 2 * steps * cells * joint
    joiner = 2 * states * 16 * joint + 2 * (states + 4) * joint * classes
    assert float(whole(sizes) - encoder(sizes)) == predictor + joiner
    assert float(encoder(sizes)) == 2 * states * sum(
        each.numel() for name, each in model.encoder.named_parameters() if "weight" in name
    )


@pytest.mark.parametrize("kind", ["conformer", "lstm"])
@pytest.mark.parametrize("objective", ["parameters", "flops", "milliseconds"])
def test_the_gradient_of_the_expected_cost_is_that_of_finite_differences(
    kind: str, objective: str, small_model: Callable[..., SpeechModel], masked: Callable[..., Masks]
) -> None:
    model = small_model(kind)
    found = sites(model)
    cost = costs_of(model, found)[objective]
    masks = masked(model).double()
    cost(masks.expected_sizes()).backward()
    for site in found:
        if not site.name.startswith("encoder."):
            continue
        log_alpha = masks.mask(site.name).log_alpha
        assert log_alpha.grad is not None
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                log_alpha[0] += step
                values.append(float(cost(masks.expected_sizes())))
                log_alpha[0] -= step
        assert float(log_alpha.grad[0]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5), site.name
        assert float(log_alpha.grad[0]) > 0, "every unit costs something"


@pytest.mark.parametrize(("objective", "target"), [("parameters", 0.7), ("flops", 0.5), ("milliseconds", 0.2)])
def test_masks_reach_their_target_by_every_cost(objective: str, target: float) -> None:
    loaded = model_of(["model.encoder.layers=1"])
    found = sites(loaded.model, ["heads", "feed_forward", "channels", "module", "width", "local_width", "subsampling"])
    cost = costs_of(loaded.model, found)[objective]
    masks, full = settled(found, cost, target, steps=450), float(cost(full_sizes(found)))
    assert float(cost(masks.expected_sizes()).detach() / full) == pytest.approx(1 - target, abs=0.01)
    sizes = {name: torch.tensor(float(len(each.indices))) for name, each in masks.kept().items()}
    assert float(cost(sizes) / full) == pytest.approx(1 - target, abs=0.01), "what is removed"


def test_multipliers_ascend_while_the_target_is_missed() -> None:
    multipliers = Multipliers()
    multipliers(torch.tensor(0.2), 0.5).backward()
    assert multipliers.linear.grad is not None
    assert multipliers.quadratic.grad is not None
    assert float(multipliers.linear.grad) == pytest.approx(-0.3)
    assert float(multipliers.quadratic.grad) == pytest.approx(0.09)
    assert [target_at(done, 0.5, 0.2) for done in (0.0, 0.1, 0.2, 1.0)] == [0.0, 0.25, 0.5, 0.5]
    assert target_at(0.0, 0.5, 0.0) == 0.5


def test_tables_are_monotone_and_met_at_their_points() -> None:
    table = table_of([[0, 2, 4], [1, 3]], torch.tensor([0.0, 0.0, 3.0, 5.0, 2.0, 9.0], dtype=torch.float64))
    assert table.milliseconds.tolist() == [[0, 0], [3, 5], [3, 9]]
    x, y = torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 1.0], [2.0, 3.0], [4.0, 1.0], [4.0, 3.0]]).double().unbind(1)
    assert interpolated(table, [x, y]).tolist() == table.milliseconds.flatten().tolist()
    middle = [torch.tensor([3.0]).double(), torch.tensor([2.0]).double()]
    assert interpolated(table, middle).tolist() == [(3 + 5 + 3 + 9) / 4]
    line = torch.linspace(0, 4, 50, dtype=torch.float64)
    values = interpolated(table, [line, torch.full((50,), 1.7).double()])
    assert (values.diff() >= 0).all()


@pytest.mark.parametrize("kind", ["conformer", "chunked", "lstm"])
def test_a_measured_table_is_written_read_and_used(
    kind: str, small_model: Callable[..., SpeechModel], tmp_path: Path
) -> None:
    model = small_model(kind)
    assert isinstance(model, Recogniser)
    found = sites(model)
    tables = measure(model.encoder, found, EXTENT, rounds=1)
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(as_json(tables, EXTENT)))
    read = read_tables(path)
    parts = parts_of(model.encoder, found)
    sizes = full_sizes(found)
    assert float(Latency(parts, read)(sizes)) == float(Latency(parts, tables)(sizes)) > 0
    halves = {name: (each / 2).floor().clamp(min=1) for name, each in sizes.items()}
    assert 0 < float(Latency(parts, read)(halves)) <= float(Latency(parts, read)(sizes))
    own = read.pop(parts[0].kind)
    with pytest.raises(UsageError, match=rf"has no {parts[0].kind}, .*: it was measured for another model"):
        Latency(parts, read)
    larger = own._replace(points=(own.points[0] * 2, *own.points[1:]))
    with pytest.raises(
        UsageError, match=rf"has a {parts[0].kind} of .* at most, this model .* measured for another model"
    ):
        Latency(parts, read | {parts[0].kind: larger})


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{}", '{"format": 2, "parts": {}}', '{"format": 1, "parts": {"norm": 3}}',
        '{"format": 1, "parts": {"norm": {"sizes": [[2, 1]], "milliseconds": [1, 2]}}}',
        '{"format": 1, "parts": {"norm": {"sizes": [[1, 2]], "milliseconds": [1, "x"]}}}',
        '{"format": 1, "parts": {"norm": {"sizes": [[1, 2]], "milliseconds": [1, 2, 3]}}}',
        '{"format": 1, "parts": {"norm": {"sizes": [[1, 2]], "milliseconds": [-1, 2]}}}',
        '{"format": 1, "parts": {"norm": {"sizes": [[1, 2]], "milliseconds": [0, 0]}}}',
        '{"format": 1, "parts": {"norm": {"sizes": [[1, 2]], "milliseconds": [1, 2]}}}',
        '{"format": 1, "processor": "a", "instruction_set": "b", "arithmetic": "int4", "parts": {}}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=str(path)):
        read_tables(path)


def test_a_table_of_another_processor_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "latency.json"
    tables = {"norm": table_of([[1, 2]], torch.tensor([1.0, 2.0], dtype=torch.float64))}
    content = as_json(tables, EXTENT)
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.INFO):
        read_tables(path)
    assert [each.levelno for each in caplog.records] == [logging.INFO], "what was measured, and no warning"
    path.write_text(json.dumps(content | {"processor": "abacus"}))
    read_tables(path)
    assert "its milliseconds were measured on abacus, " in caplog.text


@pytest.mark.parametrize("objective", ["parameters", "flops"])
def test_a_sparsity_that_no_masks_can_reach_is_refused_with_the_least_that_stays(
    objective: str, small_model: Callable[..., SpeechModel]
) -> None:
    def pruning(**settings: object) -> StructuredPruning:
        changes = [f"hooks.structured_pruning.{key}={value}" for key, value in settings.items()]
        node = compose("train", ["hooks=[structured_pruning]", *changes]).hooks.structured_pruning
        hook: StructuredPruning = build(plain(node))
        return hook

    model = small_model("conformer")
    found = sites(model, ["heads"])
    cost = costs_of(model, found)[objective]
    least = {name: torch.tensor(1.0) for name in full_sizes(found)}
    stays = float(cost(least) / cost(full_sizes(found)))
    only_heads = {"kinds": "[heads]", "objective": objective, "frames": EXTENT.frames}
    message = rf"^hooks\.structured_pruning: sparsity=0\.5: 50\.0% of the {objective} were to stay and {stays:.1%} do at least; "
    with pytest.raises(UsageError, match=message):
        pruning(**only_heads).on_auxiliary(model)
    with pytest.raises(UsageError, match=r"do at least"):
        pruning(**only_heads, sparsity=1 - stays + 1e-4).on_auxiliary(model)
    with pytest.raises(UsageError, match=r" and 100\.0% do at least"):
        pruning(objective=objective, multiple_of=1000, kinds="[feed_forward,channels,width]").on_auxiliary(model)
    assert not model._forward_pre_hooks, "a refused model is left as it is"
    assert pruning(**only_heads, sparsity=1 - stays - 1e-4).on_auxiliary(model)
