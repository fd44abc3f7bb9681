"""Pictures of lattices: what is drawn is what was given."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from asr.reporting.lattice import lattice_figure, path_points


def test_the_path_walks_right_and_up_from_corner_to_corner() -> None:
    t, u = path_points([1, 1, 4], frames=6)
    assert list(zip(t, u, strict=True)) == [(0, 0), (1, 0), (1, 1), (1, 1), (1, 2), (4, 2), (4, 3), (5, 3)]
    steps = np.abs(np.diff([t, u], axis=1))
    assert (steps.min(axis=0) == 0).all()  # never both at once
    assert path_points([], frames=3) == ([0, 2], [0, 0])


def test_the_image_is_the_occupancy(make_lattice) -> None:
    picture = make_lattice("boats", frames=20)
    markup = lattice_figure(picture, "x")
    data = re.search(r"data:image/png;base64,([^\"]*)", markup)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.sub(r"\s", "", data[1])))))
    assert image.shape == (6, 20, 4)
    np.testing.assert_allclose(image[..., 3] / 255, np.sqrt(picture.occupancy_TS.T), atol=1 / 255)
    assert re.search(
        r'width="20" height="6" transform="matrix\([0-9.]+ 0 0 -[0-9.]+ ', markup
    )  # turned over: u upwards


def test_the_picture_shows_reference_hypothesis_and_labels(make_lattice) -> None:
    markup = lattice_figure(make_lattice("a <b>", utterance_id="<u&1>"), "x")
    assert "&lt;u&amp;1&gt;" in markup
    assert markup.count("a &lt;b&gt;") == 2
    assert markup.count("</text>") >= len("start") + 4
    assert "<b>" not in markup
    assert 'role="img"' in markup


def test_a_label_that_looks_like_a_formula_is_shown_as_it_is(make_lattice) -> None:
    assert ">$</text>" in lattice_figure(make_lattice("a$b$"), "x")


def test_an_utterance_without_labels_and_cells_that_are_no_number(make_lattice) -> None:
    picture = make_lattice("", frames=3)
    assert "<figure>" in lattice_figure(replace(picture, occupancy_TS=np.full((3, 1), np.nan)), "x")


def test_a_long_utterance_labels_only_as_many_rows_as_can_be_read(make_lattice) -> None:
    markup = lattice_figure(make_lattice("abcdefgh " * 30, frames=900), "x")
    assert 20 < markup.count("</text>") < 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": ["a"]}, r"must be \(frames, labels \+ 1\)"),
        ({"path": [3, 2, 5, 6, 7]}, "never falling"),
        ({"path": [1, 2, 3, 4, 99]}, r"in 0\.\.19"),
        ({"path": [1]}, "5 never falling frames"),
    ],
)
def test_what_does_not_fit_together_is_refused(make_lattice, change, said) -> None:
    with pytest.raises(ValueError, match=said):
        lattice_figure(replace(make_lattice("boats", frames=20), **change), "x")
