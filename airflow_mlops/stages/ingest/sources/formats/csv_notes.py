"""Notes for the user about CSV columns that are text although most values look like numbers."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.incoming.inference import Notation

_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
# The first group of digits does not begin with a zero.
_COMMA_GROUPS = r"^\s*[+-]?([1-9][0-9]{0,2}(,[0-9]{3})+|[0-9]+)(\.[0-9]+)?\s*$"
_DECIMAL_COMMA = r"^\s*[+-]?([1-9][0-9]{0,2}(\.[0-9]{3})+|[0-9]+)(,[0-9]+)?\s*$"
# Characters between groups of digits, apart from commas and points: apostrophes, and normal, no-break and thin spaces.
_GROUPS = " \u00a0\u202f\u2009'\u2019"
_OTHER_GROUPS = rf"^\s*[+-]?([0-9]{{1,3}}([{_GROUPS}][0-9]{{3}})+|[0-9]+)([.,][0-9]+)?\s*$"
_MOST_TOKENS = 3
# After this number of values, a column that does not contain numbers is not searched further.
_MOST_VALUES = 10_000


class ColumnNotes:
    """Detects whether a text column was probably meant as a column of numbers.

    :param name: name of the column
    :param notation: notation of numbers that the user set
    """

    def __init__(self, name: str, notation: Notation) -> None:
        self._name = name
        self._notation = notation
        self._values = self._numbers = 0
        # Values that are not numbers. If there are more than `_MOST_TOKENS`, only some are kept.
        self._others: set[str] = set()
        self._comma_groups = self._decimal_comma = notation == Notation()
        self._other_groups = self._comma_groups
        self._found_groups: set[str] = set()
        self._decimal_points = self._commas = False
        self._is_text = False

    def update(self, values: pa.Array) -> None:
        """Add the values of a further batch."""
        texts = values.drop_null() if pa.types.is_string(values.type) else values.slice(0, 0)
        if self._is_text or not len(texts):
            return
        self._values += len(texts)
        if not self._decimal_points:
            self._decimal_points = _any(texts, r"\.")
        if self._notation == Notation() and _are_numbers(texts):
            self._numbers += len(texts)
            self._decimal_comma = self._decimal_comma and not self._decimal_points
            return
        self._update_groups(texts)
        self._comma_groups = self._comma_groups and _all(texts, _COMMA_GROUPS)
        self._decimal_comma = self._decimal_comma and _all(texts, _DECIMAL_COMMA)
        is_number = pc.match_substring_regex(self._notation.normalised(texts), _NUMBER)
        self._numbers += pc.sum(is_number).as_py()
        others = pc.unique(texts.filter(pc.invert(is_number)))
        self._others.update(others.slice(0, _MOST_TOKENS + 1).to_pylist())
        if not (self._comma_groups or self._decimal_comma or self._other_groups):
            rarely = self._values > _MOST_VALUES and 2 * self._numbers < self._values and self._others != {""}
            self._is_text = rarely or len(self._others) > _MOST_TOKENS

    def _update_groups(self, texts: pa.Array) -> None:
        self._other_groups = self._other_groups and _all(texts, _OTHER_GROUPS)
        if self._other_groups:
            self._found_groups |= {one for one in _GROUPS if _any(texts, rf"[0-9]{one}[0-9]{{3}}")}
            self._commas = self._commas or _any(texts, ",")

    def sentence(self) -> str | None:
        """Return a note for the user; ``None`` if the column is not text or was not meant as numbers.

        A note is returned in three cases:

        - All numbers may have decimal commas, or commas or other characters between groups of digits.
        - The column contains mostly numbers, and up to three other texts.
        - The column contains numbers and the empty text.
        """
        if not self._others or self._is_text:
            return None
        if self._comma_groups and self._decimal_comma:
            example = min(self._others, key=lambda text: (len(text), text)).strip()
            return (
                f"Column {self._name!r} is text, because it contains numbers with commas. To read the column as numbers, set "
                f"csv={{'thousands': ','}} if {example} means {example.replace(',', '')}, or csv={{'decimal': ','}} if it means "
                f"{example.replace(',', '.')}."
            )
        if self._comma_groups or self._decimal_comma:
            option = {"thousands": ","} if self._comma_groups else {"decimal": ","}
            if not self._comma_groups and self._decimal_points:
                option["thousands"] = "."
            return (
                f"Column {self._name!r} is text, because it contains numbers with commas. To read the column as "
                f"numbers, set csv={option!r}."
            )
        if self._other_groups and len(self._found_groups) == 1 and not (self._commas and self._decimal_points):
            option = {"thousands": next(iter(self._found_groups)), **({"decimal": ","} if self._commas else {})}
            return (
                f"Column {self._name!r} is text, because it contains numbers with grouped digits. To read the column as "
                f"numbers, set csv={option!r}."
            )
        least = 0 if self._others == {""} else self._values // 2
        if len(self._others) > _MOST_TOKENS or self._numbers <= least:
            return None
        tokens = sorted(self._others)
        return (
            f"Column {self._name!r} is text, because it contains {', '.join(map(repr, tokens))} among numbers. If such "
            f"a text means a missing value, set csv={{'na_values': {tokens!r}}}."
        )


def _all(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _any(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())


def _are_numbers(texts: pa.Array) -> bool:
    try:
        texts.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
