"""A view of Great Expectations' Data Docs that escapes all text from users: names, notes, and values of the data.

Great Expectations escapes the parameters of sentences, but not the cells of tables, the names of columns and the names
of suites. Escaping all texts beforehand would escape the parameters twice. Therefore each character with a meaning in
HTML is replaced by a placeholder (a Unicode private use character) before a page is rendered. Afterwards, its HTML
entity replaces the placeholder.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from types import CodeType
from typing import TYPE_CHECKING, Any

from great_expectations.render.view.view import DefaultJinjaPageView
from jinja2 import BytecodeCache

if TYPE_CHECKING:
    from jinja2.bccache import Bucket

_PLACEHOLDERS = {character: chr(0xF8E0 + number) for number, character in enumerate("&<>\"'")}
_HIDE = str.maketrans(_PLACEHOLDERS)
_SHOW = str.maketrans({placeholder: escape(character) for character, placeholder in _PLACEHOLDERS.items()})


class CompiledTemplates(BytecodeCache):
    """The compiled templates of this process, by the name and the checksum of the template.

    Each view of Great Expectations has its own Jinja environment. Without this cache, each page compiles all templates
    again, which takes more CPU time than a validation of few rows.
    """

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is not None:
            self._codes[bucket.key, bucket.checksum] = bucket.code


_COMPILED = CompiledTemplates()


class EscapedPageView(DefaultJinjaPageView):
    """Renders a page of the Data Docs, with all text from users escaped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.env.bytecode_cache = _COMPILED

    def render(self, document: Any, template: Any = None, **kwargs: Any) -> str:
        """Return the HTML of a page.

        :param document: content of the page, from a renderer of Great Expectations
        :param kwargs: further variables of the page's template
        """
        self._validate_document(document)
        content = document if isinstance(document, Mapping) else document.to_json_dict()
        page: str = self._get_template(template or self._template).render(
            self._hidden(content), **{name: self._hidden(value) for name, value in kwargs.items()}
        )
        return page.translate(_SHOW)

    def _hidden(self, value: Any) -> Any:
        """Return the value with placeholders in all its texts, except in HTML that a renderer has generated."""
        if isinstance(value, str):
            return value.translate(_HIDE)
        if isinstance(value, Mapping):
            trusted = getattr(self, "_TRUSTED_HTML_PARAMS", ())
            return {self._hidden(name): item if name in trusted else self._hidden(item) for name, item in value.items()}
        return [self._hidden(item) for item in value] if isinstance(value, (list, tuple)) else value
