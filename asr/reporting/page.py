"""HTML that cannot be broken by what it shows: every string is escaped unless it is ``Html``.

``tag`` is the only way to make markup, and the only maker of ``Html`` beside ``join`` and the plots. A page contains
its style and loads nothing else: it can be mailed, archived and opened without a network.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr.reporting.style import STYLE

VOID = frozenset({"br", "hr", "img", "meta", "col"})


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page, with an entry in its contents."""

    title: str
    body: Html

    @property
    def anchor(self) -> str:
        """The name by which links refer to the section."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def escaped(content: str) -> Html:
    """``content`` as text; ``Html`` stays what it is."""
    return content if isinstance(content, Html) else Html(html.escape(content))


def join(parts: Iterable[str]) -> Html:
    """Concatenate parts; those that are not ``Html`` are escaped."""
    return Html("".join(escaped(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: str | int | None) -> Html:
    """An element. Attributes are named as in Python (``class_``, ``aria_label``); those that are None are left out."""
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    inside = "".join(f' {key}="{html.escape(str(value))}"' for key, value in named)
    if name in VOID:
        return Html(f"<{name}{inside}>")
    return Html(f"<{name}{inside}>{join(children)}</{name}>")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str, numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls on its own where it is too wide; the columns in ``numbers`` are set flush right.

    The first cell of a row names it. ``caption`` is for screen readers: headings say the same on the page.
    """

    def kind(column: int) -> str | None:
        return "number" if column in numbers else None

    head = tag("tr", *(tag("th", cell, scope="col", class_=kind(column)) for column, cell in enumerate(header)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=kind(0)),
            *(tag("td", cell, class_=kind(column)) for column, cell in enumerate(row[1:], start=1)),
        )
        for row in rows
    ]
    inside = tag("table", tag("caption", caption, class_="unseen"), tag("thead", head), tag("tbody", *body))
    return scrolling(inside, caption)


def scrolling(content: Html, label: str) -> Html:
    """A region that scrolls sideways, by keyboard too, where the screen is narrower than its content."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)


def details(summary: str, *children: str, is_open: bool = False) -> Html:
    """A block that unfolds on a click or the Enter key."""
    return tag("details", tag("summary", summary), *children, open="" if is_open else None)


def render(title: str, sections: Sequence[Section], header: Html = Html("")) -> str:  # noqa: B008 - an immutable string
    """The page: ``header`` under the contents, then the sections. Section titles must differ."""
    anchors = [section.anchor for section in sections]
    if len(set(anchors)) != len(anchors):
        raise ValueError(f"sections of a page need titles that differ, got {[section.title for section in sections]}")
    contents = tag(
        "nav", *(tag("a", section.title, href=f"#{section.anchor}") for section in sections), aria_label="Contents"
    )
    main = [
        tag("section", tag("h2", section.title, id=f"{section.anchor}-title"), section.body,
            id=section.anchor, aria_labelledby=f"{section.anchor}-title")
        for section in sections
    ]  # fmt: skip
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    skip = tag("a", "Skip to the results", href="#main", class_="skip")
    body = tag("body", skip, tag("header", header, contents), tag("main", *main, id="main"))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
