"""The lattice of an utterance as a picture: how likely the alignment visits each cell, and the best path through it.

A cell (t, u) means "at encoder frame t, u labels emitted" (Graves 2012, arXiv 1211.3711, figure 1). Time runs to the
right, labels upwards. The path walks right on blanks and up on labels, with a dot where a label is emitted.

T encoder frames   U labels   S = U + 1
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from asr.reporting.page import Html, scrolling, tag
from asr.reporting.svg import FONT_SIZE, INK, MUTED, inline_svg, new_axes, series_colour

WIDTH_INCHES = 9.4
ROW_INCHES = 0.125  # height of one label, while there is room
LEAST_INCHES, MOST_INCHES = 2.4, 7.0
MID_BLUE = (0.16, 0.55, 0.80)  # seen on white and on black; opacity says how likely


@dataclass(frozen=True, slots=True)
class LatticePicture:
    """The data that the picture of one utterance shows."""

    utterance_id: str
    occupancy_TS: ArrayLike  # posterior probability of visiting each cell, 0 to 1
    path: Sequence[int]  # encoder frame at which each of the U labels is emitted, never falling
    tokens: Sequence[str]  # the U labels
    reference: str
    hypothesis: str
    frame_seconds: float  # length of an encoder frame


def lattice_figure(picture: LatticePicture, name: str) -> Html:
    """The picture with its reference and hypothesis; ``name`` must differ between the pictures of a page.

    Raises:
        ValueError: path, tokens and occupancy do not fit one another.
    """
    occupancy_TS = _checked(picture)
    plot = scrolling(_plot(picture, occupancy_TS, name), f"Lattice of {picture.utterance_id}")
    return tag("figure", tag("h3", picture.utterance_id), _caption(picture), plot)


def path_points(path: Sequence[int], frames: int) -> tuple[list[float], list[float]]:
    """Corners of the staircase through the cells' middles, as (frames, labels emitted): from (0, 0) to (T - 1, U)."""
    t, u = [0.0], [0.0]
    for emitted, frame in enumerate(path):
        t += [frame, frame]
        u += [emitted, emitted + 1]
    return [*t, frames - 1.0], [*u, float(len(path))]


def _checked(picture: LatticePicture) -> NDArray[np.float64]:
    occupancy_TS = np.asarray(picture.occupancy_TS, dtype=np.float64)
    labels = len(picture.tokens)
    if occupancy_TS.ndim != 2 or not occupancy_TS.shape[0] or occupancy_TS.shape[1] != labels + 1:
        raise ValueError(
            f"occupancy of {picture.utterance_id} must be (frames, labels + 1) = (T, {labels + 1}), got {occupancy_TS.shape}"
        )
    steps = [0, *picture.path, occupancy_TS.shape[0] - 1]
    if len(picture.path) != labels or sorted(steps) != steps:
        raise ValueError(
            f"path of {picture.utterance_id} must be {labels} never falling frames in 0..{steps[-1]}, got {list(picture.path)}"
        )
    return np.nan_to_num(occupancy_TS).clip(0.0, 1.0)


def _plot(picture: LatticePicture, occupancy_TS: NDArray[np.float64], name: str) -> Html:
    frames, states = occupancy_TS.shape
    height = min(max(ROW_INCHES * states + 0.5, LEAST_INCHES), MOST_INCHES)
    axes = new_axes(WIDTH_INCHES, height)
    axes.grid(visible=False)
    image_STC = np.empty((states, frames, 4))
    image_STC[..., :3] = MID_BLUE
    image_STC[..., 3] = np.sqrt(occupancy_TS.T)
    end = frames * picture.frame_seconds
    axes.imshow(
        image_STC, origin="lower", aspect="auto", interpolation="none", extent=(0.0, end, -0.5, states - 0.5)
    )  # fmt: skip
    t, u = path_points(picture.path, frames)
    seconds = (np.array(t) + 0.5) * picture.frame_seconds
    axes.plot(seconds, u, color=INK, linewidth=0.9)
    axes.plot(seconds[2:-1:2], u[2:-1:2], "o", color=series_colour(1), markersize=3, markeredgewidth=0)
    _label_axes(axes, picture.tokens, height)
    words = f"{len(picture.tokens)} labels over {end:.2f} seconds"
    return inline_svg(axes, name, f"Lattice occupancy and best path of {picture.utterance_id}: {words}", "plot wide")


def _label_axes(axes: Axes, tokens: Sequence[str], height: float) -> None:
    every = int(np.ceil(0.115 * (len(tokens) + 1) / (height - 0.5)))  # every n-th label, so that all remain readable
    rows = range(1, len(tokens) + 1)[::every]
    axes.set_yticks([0, *rows], ["start", *(tokens[row - 1] for row in rows)], fontsize=7.5)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xlabel("seconds", color=MUTED, fontsize=FONT_SIZE)


def _caption(picture: LatticePicture) -> Html:
    return tag(
        "blockquote",
        tag("p", tag("span", "reference ", class_="note"), picture.reference),
        tag("p", tag("span", "hypothesis ", class_="note"), picture.hypothesis),
    )
