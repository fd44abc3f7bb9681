"""HTML that cannot be broken by what it shows: every string is escaped unless it is ``Html``.

``tag`` is the only way to make markup, and the only maker of ``Html`` beside ``join`` and the plots. A page contains
its style and its script and loads nothing else: it can be mailed, archived and opened without a network. Its content
security policy names that one script by its digest, so that a browser would run no other, and refuses every request, but
for those of a watched page to its own server.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from asr.reporting.script import SCRIPT
from asr.reporting.style import STYLE

VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "col"})


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


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    numbers: Sequence[int] = (),
    runs: Sequence[int] | None = None,
    columns_of: Mapping[int, int] = MappingProxyType({}),
) -> Html:
    """A table that scrolls on its own where it is too wide; the columns in ``numbers`` are set flush right.

    The first cell of a row names it. ``caption`` is for screen readers: headings say the same on the page. What belongs
    to one of several runs hides with it: ``runs`` numbers the run of each row, ``columns_of`` that of some columns.
    """

    def cell(name: str, content: str, column: int, scope: str | None = None) -> Html:
        kind = "number" if column in numbers else None
        return tag(name, content, scope=scope, class_=kind, data_run=columns_of.get(column))

    head = tag("tr", *(cell("th", content, column, "col") for column, content in enumerate(header)))
    body = [
        tag(
            "tr",
            cell("th", row[0], 0, "row"),
            *(cell("td", content, column) for column, content in enumerate(row[1:], start=1)),
            data_run=None if runs is None else runs[place],
        )
        for place, row in enumerate(rows)
    ]
    inside = tag("table", tag("caption", caption, class_="unseen"), tag("thead", head), tag("tbody", *body))
    return scrolling(inside, caption)


def scrolling(content: Html, label: str) -> Html:
    """A region that scrolls sideways, by keyboard too, where the screen is narrower than its content."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)


def details(summary: str, *children: str, is_open: bool = False, run: int | None = None) -> Html:
    """A block that unfolds on a click or the Enter key; one about run number ``run`` hides with it."""
    return tag("details", tag("summary", summary), *children, open="" if is_open else None, data_run=run)


def grid(charts: Sequence[Html]) -> Html:
    """Charts side by side where there is room; nothing where there are none."""
    return tag("div", *charts, class_="plots") if charts else Html("")


def render(title: str, sections: Sequence[Section], header: str = "", *, watched_seconds: int | None = None) -> str:
    """The page: ``header`` above the contents, then the sections. Section titles must differ.

    ``watched_seconds``: how often a page that comes from a server asks it for a newer one; None: never.
    """
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
        tag("meta", http_equiv="Content-Security-Policy", content=security_policy(watched_seconds is not None)),
        tag("title", title),
        tag("style", Html(STYLE)),
        *(() if watched_seconds is None else (of_a_server(watched_seconds),)),
    )
    skip = tag("a", "Skip to the results", href="#main", class_="skip")
    script = tag("script", Html(SCRIPT))
    body = tag("body", skip, tag("header", header, contents), tag("main", *main, id="main"), script)
    return f"<!doctype html>\n{tag('html', head, body, lang='en', data_watch=watched_seconds)}\n"


def security_policy(watched: bool) -> str:
    """The content security policy: the page's own style and script, images within it, requests to its own server alone."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    own_server = " connect-src 'self';" if watched else ""
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:;{own_server}"
        " base-uri 'none'; form-action 'none'"
    )


def of_a_server(seconds: int) -> Html:
    """For a watched page: no icon is asked for, and a reload now and then where no script can ask for changes."""
    icon = tag("link", rel="icon", href="data:,")
    return join((icon, tag("noscript", tag("meta", http_equiv="refresh", content=str(6 * seconds)))))
