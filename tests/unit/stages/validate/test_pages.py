"""Data Docs are rewritten so that they need neither scripts nor the internet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.stages.validate.pages import index_page, self_contained


def test_elements_that_load_other_content_are_removed_and_the_rest_stays():
    page = self_contained(
        """<!DOCTYPE html><html><head><title>t</title>
        <link rel="stylesheet" href="https://cdn.example/b.css"><link rel="icon" href="static/i.ico"/>
        <style>.a { background: url('https://css.example/l.png') 0 0; } .b { background: url( //css.example/x) }</style>
        <script src="https://cdn.example/j.js"></script></head><body onload="go()">
        <img src="https://img.example/l.png?d=1" alt="A &amp; B"><br/><a href="https://greatexpectations.io">GX</a>
        <p>url(//a)</p><p title="&quot;x&quot;">1 &lt; 2 &#177; 3</p><script>if (1 < 2) { document.write("<p>no</p>"); }</script>
        <footer><a href="https://ads.example">News</a></footer></body></html>"""
    )
    assert page.startswith("<!DOCTYPE html><html><head><style>")
    for gone in (
        "cdn.example",
        "css.example",
        "static/i.ico",
        "img.example",
        "ads.example",
        "News",
        "<script",
        "onload",
        "document.write",
    ):
        assert gone not in page
    for kept in (
        ".a { background: none 0 0; } .b { background: none }", "A &amp; B", "<br>", '<a href="https://greatexpectations.io">GX</a>',
        '<p>url(//a)</p><p title="&quot;x&quot;">1 &lt; 2 &#177; 3</p>',
    ):  # fmt: skip
        assert kept in page


def test_a_chart_that_is_left_out_is_mentioned():
    assert "chart" in self_contained("<div id=v></div><script>vegaEmbed('#v', {})</script>")
    assert "chart" not in self_contained("<div id=v></div><script>other()</script>")


def test_content_that_is_unfolded_by_scripts_is_visible():
    page = self_contained('<html><head></head><body><div class="collapse">more</div></body></html>')
    assert "more" in page
    assert ".collapse {" not in page


@given(st.text())
def test_text_from_the_data_never_becomes_markup(value):
    from html import escape

    shown = self_contained(f"<html><head></head><body><td>{escape(value)}</td></body></html>")
    assert f"<td>{escape(value)}</td>" in shown


def test_the_index_lists_its_pages():
    assert '<a href="a/b.html">A &amp; B</a>' in index_page("Docs", [("A & B", "a/b.html")])
