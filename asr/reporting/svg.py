"""Matplotlib figures as inline SVG that follows the page's theme.

Matplotlib knows fixed colours only, so each role gets a colour of its own that nobody would choose; in the finished
markup it becomes the page's CSS variable. Text stays text. Ids get the plot's own prefix: on one page they must differ.
"""

import io
import re
import warnings
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from asr.reporting.page import Html, escaped
from asr.reporting.style import SERIES

INK, MUTED, RULE = "#010101", "#010102", "#010103"
ROLES = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"} | {
    f"#0101{index:02x}": f"var(--series-{index - 16})" for index in range(16, 16 + SERIES)
}
DASHES: tuple[str, ...] = ("solid", "dashed", "dotted", "dashdot")
FONT_SIZE = 8.5  # font size of the plots' texts, in points
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "murmuration",
    "font.size": FONT_SIZE,
    "text.parse_math": False,
}


def series_colour(index: int) -> str:
    """The colour of the index-th series; after ``SERIES`` of them they begin anew, with another dash."""
    return f"#0101{16 + index % SERIES:02x}"


def series_dash(index: int) -> str:
    """The line style of the index-th series."""
    return DASHES[index // SERIES % len(DASHES)]


def new_axes(width_inches: float, height_inches: float) -> Axes:
    """Axes of a new figure: a base line and faint horizontal rules, no frame."""
    with mpl.rc_context(SETTINGS):
        axes: Axes = Figure(figsize=(width_inches, height_inches), layout="constrained").add_subplot()
        axes.patch.set_visible(False)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set(color=RULE, linewidth=1)
        axes.tick_params(which="both", length=0, labelcolor=MUTED, pad=5)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
    return axes


def inline_svg(axes: Axes, name: str, description: str, css_class: str = "plot") -> Html:
    """The figure of ``axes`` as an image for an HTML page; ``name`` prefixes its ids, ``description`` is its text."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # new_axes made it
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it is the browser that draws text, with its own fonts
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    markup = buffer.getvalue()
    viewbox = re.search(r'viewBox="[^"]*"', markup)
    assert viewbox is not None, markup[:300]
    opening = f'<svg {viewbox[0]} class="{css_class}" role="img" aria-label="{escaped(description)}">'
    return Html(opening + _content(markup, name))


def _content(markup: str, name: str) -> str:
    """The content of the <svg> element, without metadata and without styles that would affect the page."""
    content = markup[markup.index("<metadata>") : markup.index("</svg>") + len("</svg>")]
    content = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", content, flags=re.DOTALL)
    content = re.sub(r'<g id="[^"]*"/>|<defs>\s*</defs>', "", content)
    # Only tags are rewritten: what a text says stays. Matplotlib escapes < and > in texts and attributes.
    content = re.sub(r"<[^<>]+>", lambda found: _themed(found[0], name), content)
    return re.sub(r"\s*\n\s*", "\n", content)


def _themed(element: str, name: str) -> str:
    """One tag with its own ids, the page's font and the page's colours."""
    element = re.sub(r'^<g id="[^"]*"', "<g", element)  # names of artists, which nothing refers to
    element = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", element)
    element = re.sub(r'font-family: [^;"]*;? ?| transform="rotate\(-0 [^"]*"', "", element)
    return re.sub(r"(?<=: )#[0-9a-f]{6}", lambda found: ROLES.get(found[0], found[0]), element)
