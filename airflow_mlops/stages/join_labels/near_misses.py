"""Finds predictions without a label whose keys a label has in another form, such as ``7`` beside ``007``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.moments import is_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TIME_OF_DAY = r"([T ,]+\d{1,2}:\d\d(:\d\d([.,]\d{1,9})?)?( ?[AaPp][Mm])?( ?(Z|UTC|GMT|[+-]\d\d(:?\d\d)?))?)?"  # 06:30:00.5 PM +0100
_SEPARATED = (
    r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}"  # 2024-03-05
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}"  # 3/5/2024
    r"|\d{1,2}/\d{1,2}/\d{2}"  # 3/5/24
    r"|\d{1,2}[- ][A-Za-z]{3,9}[- ,]+\d{2,4}"  # 5 March 2024
    rf"|[A-Za-z]{{3,9}} \d{{1,2}},? \d{{4}}){_TIME_OF_DAY}$"  # March 5, 2024
)
_COMPACT = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(T?\d{4,6}Z?)?$"
_SHAPE = (
    (r"(:\d\d)[.,]\d+", r"\1.f"),
    (r"[A-Za-z]{3,}", "A"),
    (r"\d{5,}", "D"),
    (r"\d{4}", "Y"),
    (r"\d+", "d"),
)
_ROW, _OTHER_ROW = "__row__", "__other_row__"


@dataclass(frozen=True)
class NearMisses:
    """Predictions without a matching label whose keys a label has in another form.

    :param rows: number of these predictions
    :param column: key column with the different forms
    :param prediction: key of one of these predictions
    :param label: for times, a key of the labels; otherwise the key that differs from ``prediction`` only in its form
    :param are_times: whether the keys are times as text that no label writes in this form
    """

    rows: int
    column: str
    prediction: str
    label: str
    are_times: bool

    def explain(self, predictions: int, name: str) -> str:
        """Return the text of an error.

        :param predictions: number of all predictions
        :param name: name of the dataset of labels
        """
        how = (
            f"contains times as text in different forms: {self.prediction!r} in the predictions and {self.label!r}"
            if self.are_times
            else f"is written differently: {self.prediction!r} in the predictions and {self.label!r}"
        )
        fix = (
            f"Ingest both columns with a time type, such as types={{{self.column!r}: 'date32'}}, and convert text that is "
            "not ISO 8601 in the source."
            if self.are_times
            else "Ingest both columns with the same type (types=), or write their values alike in the source."
        )
        return f"{self.rows:,} of {predictions:,} predictions have no label, because the key column {self.column!r} {how} in dataset {name!r}. {fix}"

    def note(self, name: str) -> str:
        """Return a sentence for the summary of the result."""
        return (
            f"{self.rows:,} predictions have no label, because {self.column!r} is {self.prediction!r} there but "
            f"{self.label!r} in {name}."
        )


def find(
    predictions: pa.Table, labels: pa.Table, matched: NDArray[np.bool_], hashed: Collection[str]
) -> NearMisses | None:
    """Find predictions that match no label only because of the form of a key.

    Two keys differ only in their form if they are equal without spaces at the ends, repeated spaces, upper and lower
    case, leading zeros, a final ``.0`` and the form of Unicode. Times as text, such as ``2024-03-05`` and ``3/5/2024``,
    differ in their form if no label has a time in the form of the prediction.

    :param predictions: comparable key columns of the predictions (:func:`~.keys.comparable`)
    :param labels: comparable key columns of the labels
    :param matched: whether each prediction matches a label
    :param hashed: key columns with hashes, which have no forms
    :return: ``None`` if there are no such predictions. If there are several kinds, the most frequent kind is described
    """
    texts = [name for name in predictions.column_names if is_text(predictions[name].type) and name not in hashed]
    if matched.all() or not labels.num_rows or not texts:
        return None
    left = predictions.filter(pa.array(~matched))
    found = [_spelling(left, labels, texts), *(_times(left[name], labels[name], name) for name in texts)]
    return max((item for item in found if item is not None), key=lambda item: item.rows, default=None)


def _spelling(left: pa.Table, right: pa.Table, texts: list[str]) -> NearMisses | None:
    one, other = (_normalized(table, texts) for table in (left, right))
    if one.equals(left) and other.equals(right):
        return None
    places = [str(place) for place in range(left.num_columns)]
    pairs = _numbered(one, places, _ROW).join(_numbered(other, places, _OTHER_ROW), keys=places, join_type="inner")
    if not pairs.num_rows:
        return None
    row, other_row = pairs[_ROW][0].as_py(), pairs[_OTHER_ROW][0].as_py()
    example = {name: (left[name][row].as_py(), right[name][other_row].as_py()) for name in texts}
    column = next(name for name, (mine, theirs) in example.items() if mine != theirs)
    return NearMisses(pc.count_distinct(pairs[_ROW]).as_py(), column, *example[column], are_times=False)


def _numbered(table: pa.Table, places: list[str], name: str) -> pa.Table:
    return table.rename_columns(places).append_column(name, pa.array(np.arange(table.num_rows)))


def _normalized(table: pa.Table, texts: list[str]) -> pa.Table:
    for name in texts:
        table = table.set_column(
            table.schema.get_field_index(name), name, _for_distinct(table[name], _without_differences)
        )
    return table


def _for_distinct(column: Any, convert: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Convert the distinct values of a column, and return the converted column."""
    encoded = column.combine_chunks().dictionary_encode()
    return convert(encoded.dictionary).take(encoded.indices)


def _without_differences(text: pa.Array) -> pa.Array:
    """Return one form of the texts that are equal apart from spaces, case, leading zeros, ``.0`` and Unicode's form."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(pc.utf8_normalize(text, form="NFC")))
    text = pc.replace_substring_regex(text, r"\s+", " ")
    text = pc.replace_substring_regex(text, r"^([+-]?\d+)\.0+$", r"\1")
    text = pc.replace_substring_regex(text, r"^([+-]?)0+(\d+)$", r"\1\2")
    is_date = pc.match_substring_regex(text, _SEPARATED)
    return pc.if_else(is_date, pc.replace_substring_regex(text, r"(^|[-/. ])0(\d)", r"\1\2"), text)


def _times(left: Any, right: Any, column: str) -> NearMisses | None:
    """Find the values of ``left`` that are times in a form in which ``right`` contains no value."""
    there = pc.unique(right).drop_null()
    there = there.filter(_is_time(there))
    if not len(there):
        return None
    shapes = pc.unique(_shape(there))
    # Digits alone are times only beside text that certainly is a time.
    is_time = _is_time if pc.any(_is_separated(there)).as_py() else _is_separated

    def is_apart(text: pa.Array) -> pa.Array:
        return pc.and_(is_time(text), pc.invert(pc.is_in(_shape(text), value_set=shapes)))

    apart = left.filter(pc.fill_null(_for_distinct(left, is_apart), False))
    return NearMisses(len(apart), column, apart[0].as_py(), there[0].as_py(), are_times=True) if len(apart) else None


def _is_time(text: Any) -> Any:
    return pc.or_(_is_separated(text), pc.match_substring_regex(text, _COMPACT))


def _is_separated(text: Any) -> Any:
    return pc.match_substring_regex(text, _SEPARATED)


def _shape(text: Any) -> Any:
    """Return for each time the form in which it is written, such as ``Y-d-d`` for ``2024-03-05``."""
    for pattern, sign in _SHAPE:
        text = pc.replace_substring_regex(text, pattern, sign)
    return text
