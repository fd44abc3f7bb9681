"""The documentation holds together: links lead somewhere, every method has its page, and its options are those of conf/."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.composition.compose import CONF
from scripts.composition.startup import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
METHODS = [path for group in ("hooks", "backend") for path in sorted((CONF / group).glob("*.yaml"))]

LINK = re.compile(r"\[[^][]*\]\(([^()\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^\| `(\w+)` \| (?:`([^`]*)`|must be given) \|", re.MULTILINE)


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page: no punctuation, hyphens for blanks, numbers for repeats."""
    slugs = [
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    ]
    return {f"{slug}-{repeats}" if (repeats := slugs[:place].count(slug)) else slug for place, slug in enumerate(slugs)}


def links(page: Path) -> list[str]:
    """What the page links to inside the repository: paths with or without an anchor, anchors alone."""
    text = re.sub(r"^(?: {4}).*$", "", page.read_text(), flags=re.MULTILINE)
    text = CODE.sub("``", text)
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    bad = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            bad.append(link)
    return bad


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`, c\n[x](#a-b-c) [y](#a) [z](none.md) [w](page.md#a-b-c) [`v`](https://a.b) `[code](none)`\n"
    )
    assert broken(page) == ["#a", "none.md"]


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "README.md"
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in links(index)}
    assert {relative(page) for page in DOCS.rglob("*.md")} - {relative(page) for page in listed} == {"docs/README.md"}


def options(page: Path) -> dict[str, Any]:
    """Keys and defaults of the page's table of options."""
    section = re.search(r"^## Options\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, f"{relative(page)} has no section Options"
    return {key: yaml.safe_load(value) if value else "???" for key, value in OPTION.findall(section[1])}


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_every_method_has_a_page_with_its_options(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    del node["_target_"]
    assert options(DOCS / "methods" / f"{path.stem}.md") == node


def test_pages_named_in_code_exist() -> None:
    folders = ("asr", "compression", "conf", "distributed", "scripts")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    files.append(REPOSITORY / "Makefile")
    named = {(relative(path), page) for path in files for page in re.findall(r"docs/[\w/-]+\.md", path.read_text())}
    assert named
    assert [(path, page) for path, page in sorted(named) if not (REPOSITORY / page).exists()] == []


def test_records_name_no_folder_of_the_machine_that_they_were_made_on() -> None:
    """Their commands are there to be typed elsewhere; /corpora stands for wherever yours lie."""
    absolute = re.compile(r"[\s=\"'\[](/(?!dev/|corpora/)[\w.-]+/[\w./-]+)")
    found = {
        path.name: absolute.findall(line)
        for path in (REPOSITORY / "docs" / "results").glob("*.json")
        for line in path.read_text(encoding="utf-8").splitlines()
        if absolute.search(line)
    }
    assert found == {}
