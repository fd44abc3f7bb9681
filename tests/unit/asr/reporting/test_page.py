"""Markup from hostile text: what is shown is what was given, and nothing else."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.reporting.page import Html, Section, escaped, join, render, table, tag

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


class Reader(HTMLParser):
    """Collects what a browser would show and which elements it would make."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.elements = "", []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


@given(TEXT, TEXT)
def test_text_and_attributes_come_back_as_given(content: str, label: str) -> None:
    reader = read(tag("p", content, aria_label=label))
    assert reader.text == content
    assert reader.elements == [("p", {"aria-label": label})]


def test_markup_is_escaped_once_and_only_where_it_is_text() -> None:
    inner = tag("em", "<script>")
    assert inner == "<em>&lt;script&gt;</em>"
    assert tag("p", inner) == f"<p>{inner}</p>"
    assert escaped(inner) is inner
    assert join(("a<b", inner)) == f"a&lt;b{inner}"


def test_pieces_of_markup_glued_as_strings_are_text_again() -> None:
    assert isinstance(tag("b", "x"), Html)
    assert tag("p", tag("b", "x") + "<i>") == "<p>&lt;b&gt;x&lt;/b&gt;&lt;i&gt;</p>"


def test_none_attributes_are_left_out_and_void_elements_not_closed() -> None:
    assert tag("td", "x", class_=None) == "<td>x</td>"
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_a_table_names_its_columns_and_rows_for_screen_readers() -> None:
    elements = read(table(("set", "WER"), [("test", "3 %"), ("dev", "4 %")], "Rates", numbers=(1,))).elements
    assert [attributes["scope"] for name, attributes in elements if name == "th"] == ["col", "col", "row", "row"]
    assert [attributes.get("class") for name, attributes in elements if name == "td"] == ["number", "number"]
    assert elements[0] == ("div", {"class": "scroll", "role": "region", "aria-label": "Rates", "tabindex": "0"})


def test_contents_lead_to_every_section() -> None:
    reader = read(render("A <title>", [Section("One & two", tag("p", "x")), Section("Three", tag("p", "y"))]))
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    links = [attributes["href"] for name, attributes in reader.elements if name == "a"]
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert "#one-two" in links


def test_sections_of_the_same_name_are_refused() -> None:
    with pytest.raises(ValueError, match="titles that differ"):
        render("x", [Section("A", Html("")), Section("a", Html(""))])
