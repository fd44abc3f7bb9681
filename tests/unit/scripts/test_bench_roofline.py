"""The roofline: times follow from rates, the model's products are all there, and what is saved says that it is simulated."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.bench.roofline import PROCESSORS, Processor, Product, encoder_products, ibm_rnnt, main, seconds

SLOW_MEMORY = Processor("", {16: 1e15, 8: 2e15, 4: 4e15}, 1e9, 1e6)
FAST_MEMORY = Processor("", {16: 1e9, 8: 2e9, 4: 4e9}, 1e15, 1e6)


def test_the_slower_of_the_two_limits_counts() -> None:
    product = Product(rows=1, inputs=1000, outputs=500)
    assert seconds(product, FAST_MEMORY, 16) == pytest.approx(2 * 500_000 / 1e9)
    assert seconds(product, SLOW_MEMORY, 4) == pytest.approx((500_000 / 2 + 1000 / 2 + 2 * 500) / 1e9)


def test_weights_are_read_once_if_they_stay_and_in_every_launch_if_not() -> None:
    product = Product(rows=1, inputs=1000, outputs=500, launches=10)
    once = (500_000 * 2 + 10 * (2000 + 1000)) / 1e9
    assert seconds(product, SLOW_MEMORY, 16) == pytest.approx(once)
    too_small = replace(SLOW_MEMORY, chip=1e3)
    assert seconds(product, too_small, 16) == pytest.approx(once + 9 * 500_000 * 2 / 1e9)


def test_fewer_bits_are_never_slower_and_four_times_faster_at_most() -> None:
    for processor in PROCESSORS:
        for rows in (1, 64, 4096):
            product = Product(rows, 1280, 2560, 3)
            times = [seconds(product, processor, bits) for bits in (16, 8, 4)]
            assert times == sorted(times, reverse=True)
            assert processor.chip < 1280 * 2560 * 2 or times[0] <= 4.0001 * times[2]


def test_all_matrices_of_the_encoder_are_multiplied_once_a_state() -> None:
    model = ibm_rnnt()
    multiplied = sum(each.rows * each.inputs * each.outputs * each.launches for each in encoder_products(model, 2, 50))
    weights = sum(each.numel() for name, each in model.encoder.named_parameters() if "weight" in name)
    assert multiplied == 2 * 50 * weights


def test_it_says_that_it_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", str(tmp_path / "figures.json")])
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved["simulated"] is True
    assert all(row["simulated"] for row in saved["rows"])
    assert all(name.startswith("simulated_") for name in saved["figures"])
    assert capsys.readouterr().out.startswith("| simulated |")
