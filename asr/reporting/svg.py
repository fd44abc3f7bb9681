"""Matplotlib figures as inline SVG that follows the page's theme.

Matplotlib knows fixed colours only, so each role gets a colour of its own that nobody would choose; in the finished
markup it becomes the page's CSS variable. Text stays text. Ids get the plot's own prefix: on one page they must differ.

Artists that ``name_part`` has named are groups with a title, which a browser shows on hover, and with the run that they
belong to. With the scales on the image itself, the page's script can read values off a line, draw it over another
quantity, and hide a run.
"""

import io
import re
import warnings
from typing import Any, Literal
from urllib.parse import quote, unquote

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from asr.reporting.page import Html, escaped
from asr.reporting.style import SERIES

INK, MUTED, RULE, PAPER = "#010101", "#010102", "#010103", "#010104"
ROLES = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"} | {
    f"#0101{index:02x}": f"var(--series-{index - 16})" for index in range(16, 16 + SERIES)
}
DASHES: tuple[str, ...] = ("solid", "dashed", "dotted", "dashdot")
FONT_SIZE = 8.5  # font size of the plots' texts, in points
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "murmuration",
    "font.size": FONT_SIZE,
    "text.parse_math": False,
    "path.simplify": False,  # thinned already; the script reads values off the points
}
PART = "part"
PartKind = Literal[
    "line", "back", "area", "bar"
]  # a line with values to read | lines and areas without | a bar with a text


def series_colour(index: int) -> str:
    """The colour of the index-th series; after ``SERIES`` of them they begin anew, with another dash."""
    return f"#0101{16 + index % SERIES:02x}"


def series_dash(index: int) -> str:
    """The line style of the index-th series."""
    return DASHES[index // SERIES % len(DASHES)]


def name_part(artist: Artist, kind: PartKind, title: str, run: int | None = None) -> None:
    """Name an artist for the reader and the script; ``run``: the number of the run that it belongs to."""
    artist.set_gid(f"{PART}|{kind}|{'' if run is None else run}|{quote(title)}")


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
    opening = f'<svg {viewbox[0]} class="{css_class}" role="img" aria-label="{escaped(description)}"{_scales(axes)}>'
    return Html(opening + _content(markup, name))


def _scales(axes: Axes) -> str:
    """Attributes that say which values lie where: limits, and the place of the axes in units of the view box."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches() * 72
    place, limits = axes.get_position(), axes.viewLim
    box = (place.x0 * width, (1 - place.y1) * height, place.x1 * width, (1 - place.y0) * height)
    y = f"{limits.y0:.8g} {limits.y1:.8g} {axes.get_yscale()}"
    return (
        f' data-x="{limits.x0:.8g} {limits.x1:.8g}" data-y="{y}" data-box="{" ".join(f"{edge:.2f}" for edge in box)}"'
    )


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
    if element.startswith("<g id="):
        return _group(element.removeprefix('<g id="').removesuffix('">'))
    element = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", element)
    element = re.sub(r'font-family: [^;"]*;? ?| transform="rotate\(-0 [^"]*"', "", element)
    return re.sub(r"(?<=: )#[0-9a-f]{6}", lambda found: ROLES.get(found[0], found[0]), element)


def _group(name: str) -> str:
    """The beginning of a group: the name of an artist, which nothing refers to, or what ``name_part`` has made of it."""
    if name == "matplotlib.axis_1":
        return '<g class="x-axis">'
    if not name.startswith(f"{PART}|"):
        return "<g>"
    kind, run, title = name.split("|", 3)[1:]
    of_run = f' data-run="{run}"' if run else ""
    return f'<g data-part="{kind}"{of_run}><title>{escaped(unquote(title))}</title>'
