"""Plots on a page: themed, with ids of their own, and texts left alone."""

import re

import matplotlib as mpl

from asr.reporting.svg import INK, SETTINGS, inline_svg, new_axes, series_colour, series_dash


def plot(name: str, label: str = "x") -> str:
    axes = new_axes(3, 2)
    axes.plot([0, 1], [1, 0], "o-", color=series_colour(2))
    axes.set_xlabel(label, color=INK)
    return inline_svg(axes, name, "A <plot> of \"x\" & 'y'")


def test_the_same_plot_is_the_same_markup() -> None:
    assert plot("a") == plot("a")


def test_ids_carry_the_plots_name_and_every_reference_has_its_target() -> None:
    markup = plot("loss")
    ids = re.findall(r' id="([^"]*)"', markup)
    assert len(set(ids)) == len(ids)
    assert all(each.startswith("loss-") for each in ids)
    references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', markup)
    assert references
    assert {target for pair in references for target in pair if target} <= set(ids)


def test_colours_are_the_pages_own() -> None:
    markup = plot("a")
    assert "var(--series-2)" in markup
    assert "var(--rule)" in markup
    assert not re.search(r"#[0-9a-f]{6}", markup)


def test_nothing_reaches_out_of_the_plot() -> None:
    markup = plot("a")
    assert "http" not in markup
    assert "<style" not in markup
    assert "metadata" not in markup


def test_texts_are_not_rewritten() -> None:
    markup = plot("a", 'x id="y" url(#z) : #010101 $\\frac{1}{2}$ <b>')
    assert 'x id="y" url(#z) : #010101 $\\frac{1}{2}$ &lt;b&gt;</text>' in markup


def test_the_description_is_escaped() -> None:
    assert 'aria-label="A &lt;plot&gt; of &quot;x&quot; &amp; &#x27;y&#x27;"' in plot("a")


def test_settings_of_matplotlib_are_left_as_they_were() -> None:
    before = {key: mpl.rcParams[key] for key in SETTINGS}
    plot("a")
    assert {key: mpl.rcParams[key] for key in SETTINGS} == before


def test_a_symbol_without_a_glyph_warns_nobody(recwarn) -> None:
    assert "漢" in plot("a", "漢")
    assert not recwarn.list


def test_many_series_are_told_apart_by_colour_or_dash() -> None:
    looks = {(series_colour(index), series_dash(index)) for index in range(24)}
    assert len(looks) == 24
