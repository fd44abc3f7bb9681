"""Layers: whatever rows hold for each of them, in the order of the model."""

import re
from typing import Any

from asr.reporting.layers import is_of_layer, layer_values, layers_section
from asr.reporting.report import report
from asr.reporting.run import RunRecord, read_run


def record_of(*learners: list[dict[str, Any]], name: str = "run") -> RunRecord:
    return RunRecord(name, dict(enumerate(learners)), [], "", {}, {})


ROWS = [
    {"samples": 1, "sparsity/encoder.blocks.10": 0.1, "format/encoder.blocks.10": "fp32"},
    {
        "samples": 2,
        "sparsity/encoder.blocks.2": 0.5,
        "sparsity/encoder.blocks.10": 0.25,
        "format/encoder.blocks.10": "int4",
    },
]


def test_keys_that_end_in_names_of_modules_are_of_layers() -> None:
    assert is_of_layer("sparsity/encoder.blocks.2")
    assert is_of_layer("qat_int4/bound/encoder.lstm.0")
    assert not is_of_layer("eval/dev.other/wer")
    assert not is_of_layer("eval/set/a.b")
    assert not is_of_layer("train/loss")


def test_values_are_the_newest_and_means_over_learners() -> None:
    found = layer_values(record_of(ROWS, [{"samples": 1, "sparsity/encoder.blocks.10": 0.75}]))
    assert found == {
        "sparsity": {"encoder.blocks.10": 0.5, "encoder.blocks.2": 0.5}, "format": {"encoder.blocks.10": "int4"},
    }  # fmt: skip


def test_layers_stand_in_the_order_of_the_model_numbers_and_words_alike() -> None:
    markup = layers_section([record_of(ROWS)])
    rows = re.findall(r'scope="row">([^<]*)</th><td[^>]*>([^<]*)</td><td[^>]*>([^<]*)</td>', markup)
    assert rows == [("encoder.blocks.2", "–", "0.5"), ("encoder.blocks.10", "int4", "0.25")]
    assert "encoder.blocks.2 0.5, encoder.blocks.10 0.25" in markup
    assert layers_section([record_of([{"samples": 1, "train/loss": 1.0}])]) == ""


def test_they_are_no_other_figures_and_hostile_names_are_text(make_run) -> None:
    record = read_run(make_run())
    rows = [row | {"sparsity/<script>.1": 0.01 * place} for place, row in enumerate(record.rows[0])]
    page = report([record, RunRecord("<script>", {0: rows}, [], "", {}, {})])
    assert "Layers</h2>" in page
    assert "<h3>sparsity/" not in page
    assert page.count("<script>") == 1, "the page's own"
