"""Change the Data Docs of Great Expectations so that a browser shows them without internet access and scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from html.parser import HTMLParser

# Elements that end without an end tag.
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# The footer advertises a newsletter.
_DROPPED = {"script", "noscript", "iframe", "footer"}
# In a stylesheet: an image or font from the internet.
_REMOTE_URL = re.compile(r"""url\(\s*['"]?(?:https?:)?//[^)]*\)""")
_CHART = '<p class="note">A chart that needs scripts from the internet is left out.</p>'
# This stylesheet replaces the parts of Bootstrap and Font Awesome that the templates of Great Expectations use.
_STYLE = """<style>
:root { color-scheme: light dark; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
* { box-sizing: border-box; }
a { color: LinkText !important; }
img { max-width: 100%; }
h1, h2, h3, h4, h5, h6, .h6 { margin: 0 0 .4rem; font-size: 1rem; font-weight: 600; }
h4 { font-size: 1.2rem; }
.navbar.sticky-top { height: auto !important; padding: .8rem 1.5rem; border-bottom: 1px solid #8886; }
.navbar-brand, .modal, footer, a[data-toggle="collapse"], .card:has(.btn-group-toggle), .cooltip .top { display: none; }
ol.breadcrumb, ul.nav { list-style: none; margin: 0; padding: 0; }
ol.breadcrumb li { display: inline; }
ol.breadcrumb li + li::before { content: " / "; }
.container-fluid { padding: 1rem 1.5rem; }
.container-fluid .container-fluid { padding: 0; }
.row { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.col-lg-2 { flex: 0 0 14rem; }
.col-lg-10 { flex: 1 1 30rem; min-width: 0; }
.col-12 { flex: 0 0 100%; }
.col-6 { flex: 1 1 20rem; }
.card, .alert { border: 1px solid #8886; border-radius: 6px; margin-bottom: 1rem; }
.card { overflow: hidden; max-height: none !important; }
.card-header, .card-body, .alert { padding: .5rem .8rem; }
.alert, .card-header { background: #8881; }
nav, ul { max-height: none !important; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { overflow-wrap: normal; }
.badge { border: 1px solid #8886; border-radius: 4px; padding: 0 .3rem; }
.text-success { color: #15803d; }
.text-danger { color: #c62828; }
.text-warning { color: #b45309; }
@media (prefers-color-scheme: dark) {
  .text-success { color: #4ade80; }
  .text-danger { color: #f87171; }
  .text-warning { color: #fbbf24; }
  .table { background: none !important; }
}
i[class*="fa-"] { font-style: normal; font-weight: 700; }
.fa-check-circle::before, .fa-check::before { content: "\\2713"; }
.fa-times::before, .fa-times-circle::before { content: "\\2717"; }
.fa-exclamation-triangle::before { content: "\\26A0"; }
.note { color: GrayText; }
pre, code { white-space: pre-wrap; }
</style>"""


def self_contained(page: str) -> str:
    """Return an HTML page without scripts and without content from the internet. The page includes its stylesheet.

    Sections that a script would unfold are always visible. A note replaces each chart that needs a script.

    :param page: HTML page that Great Expectations rendered
    """
    parser = _Page()
    parser.feed(page)
    parser.close()
    return "".join(parser.parts)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._inside: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._in_style = tag == "style"
        if tag in _DROPPED:
            self._inside.append(tag)
        elif self._inside:
            return
        elif tag == "img" and _is_remote(values.get("src")):
            self.parts.append(escape(values.get("alt") or ""))
        # Links name stylesheets, fonts and icons, which are not published.
        elif tag != "link":
            shown = "".join(
                f" {name}" if value is None else f' {name}="{escape(value)}"'
                for name, value in attrs
                if not name.startswith("on")
            )
            self.parts.append(f"<{tag}{shown}>")
        if tag == "head":
            self.parts.append(_STYLE)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False
        if self._inside:
            if tag == self._inside[-1]:
                self._inside.pop()
        elif tag not in _VOID:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.parts.append(_REMOTE_URL.sub("none", data) if self._in_style else data)
        elif self._inside[-1] == "script" and "vegaEmbed(" in data:
            self.parts.append(_CHART)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")

    def handle_decl(self, decl: str) -> None:
        self.parts.append(f"<!{decl}>")


def _is_remote(url: str | None) -> bool:
    return (url or "").startswith(("http://", "https://", "//"))


def index_page(title: str, pages: Iterable[tuple[str, str]], note: str = "") -> str:
    """Return an HTML page with links. It replaces the index page of Great Expectations, which needs a script.

    :param title: title of the page
    :param pages: text and relative URL of each link
    :param note: text above the links
    """
    above = f"<p>{escape(note)}</p>" if note else ""
    links = "".join(f'<li><a href="{escape(url)}">{escape(text)}</a></li>' for text, url in pages)
    return (
        f'<!DOCTYPE html><html><head><meta charset="UTF-8"><title>{escape(title)}</title>{_STYLE}</head>'
        f'<body><div class="container-fluid"><h4>{escape(title)}</h4>{above}<ul>{links}</ul></div></body></html>'
    )
