"""The values of a label: the ML task that they imply, the classes and the positive class."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError, TrainingError, told_apart
from airflow_mlops.data.moments import is_text

# An integer label with more distinct values than this is a quantity, so the ML task is regression.
_MOST_CLASSES = 20
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class LabelValues:
    """The distinct values of a label.

    :param kind: type of the label
    :param counts: number of rows by value, in the order in which the values first occur
    :param complete: whether all rows were counted. Counting stops at more than 20 distinct values, unless the label is
        text or the ML task is ``multiclass``
    """

    kind: pa.DataType
    counts: dict[Any, int]
    complete: bool = True

    @classmethod
    def of(cls, batches: Iterable[pa.Array | pa.ChunkedArray], kind: pa.DataType, task: Task | None) -> LabelValues:
        """Count the values of a label.

        :param batches: the label of each row
        :param kind: type of the label
        :param task: ML task; ``None`` if the values imply it
        """
        counts: dict[Any, int] = {}
        for batch in batches:
            for item in batch.value_counts().to_pylist():
                counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
            if len(counts) > _MOST_CLASSES and task != "multiclass" and not is_text(kind):
                return cls(kind, counts, complete=False)
        return cls(kind, counts)

    @property
    def distinct(self) -> str:
        """Return the number of values, for messages."""
        return str(len(self.counts)) if self.complete else f"more than {_MOST_CLASSES}"

    def values(self) -> pa.Array:
        """Return the values."""
        return pa.array(list(self.counts), self.kind)


def infer_task(label: LabelValues) -> Task:
    """Return the ML task that the values of the label imply.

    Floating-point numbers are ``binary`` if the values are 0 and 1, otherwise ``regression``. Text and integers with at
    most two distinct values are ``binary``. Text with more values, and integers with 3 to 20 values, are
    ``multiclass``. Integers with more values are ``regression``.

    :param label: the values of the label of all events
    """
    if pa.types.is_floating(label.kind):
        return "binary" if set(label.counts) == {0.0, 1.0} else "regression"
    if len(label.counts) <= 2:
        return "binary"
    if pa.types.is_integer(label.kind) and len(label.counts) > _MOST_CLASSES:
        return "regression"
    return "multiclass"


def require_classes(label: LabelValues, task: Task, name: str, where: str) -> None:
    """Check that the label has at least two distinct values and, for a binary task, exactly two.

    :param label: the values of the label of the rows
    :param task: ML task: ``binary``, ``multiclass`` or ``regression``
    :param name: name of the label, for the error message
    :param where: description of the rows for the error message, such as ``the split part 'test'``
    :raises TrainingError: all rows have the same label, or two classes differ only by blanks or Unicode form
    :raises SpecError: the ML task is binary, but the label has more than two distinct values
    """
    if len(label.counts) < 2:
        ((value, count),) = label.counts.items()
        rows = "the only row" if count == 1 else f"all {count:,} rows"
        raise TrainingError(
            f"The label {name!r} is {value!r} in {rows} of {where}, so a model cannot be "
            "trained or evaluated on them. Set a longer `window` or a different `split`, or correct `label`."
        )
    if is_text(label.kind):
        seen: dict[str, str] = {}
        for text in label.counts:
            if (other := seen.setdefault(unicodedata.normalize("NFC", text).strip(), text)) != text:
                raise TrainingError(
                    f"The label {name!r} has the values {' and '.join(told_apart(other, text))}, which differ only by blanks or Unicode "
                    "form, but would be different classes. Correct them in the source."
                )
    if task == "binary" and len(label.counts) > 2:
        raise SpecError(
            f"The label {name!r} has {label.distinct} different values, so the ML task is not binary. Omit `task`, or "
            "correct `label`."
        )


def positive_class(label: LabelValues, declared: Any, name: str) -> Any:
    """Return the label value of the positive class of a binary task.

    :param label: the two values of the label
    :param declared: the positive class that the user set, as a value or as the text of a value, because templates
        render to text; ``None`` for the last value in sorted order
    :param name: name of the label, for the error message
    :raises SpecError: ``declared`` is not one of the two values
    """
    labels = sorted(label.counts)
    if declared is None:
        return labels[-1]
    found = [value for value in labels if value == declared] or [value for value in labels if _is_text(value, declared)]
    if len(found) != 1:
        raise SpecError(
            f"`positive` is {declared!r}, but the label {name!r} has the values {' and '.join(map(repr, labels))}. Set "
            "`positive` to one of them."
        )
    return found[0]


def _is_text(value: Any, text: Any) -> bool:
    """Return whether ``text`` is the label ``value`` written as text.

    ``1`` and ``1.0`` are the same number, and ``True`` is the number 1.
    """
    if str(value) == text or not isinstance(text, str) or not isinstance(value, (int, float)):
        return str(value) == text
    with suppress(InvalidOperation):
        # A float would round large integers.
        return bool(value == (_BOOLEANS[text.lower()] if text.lower() in _BOOLEANS else Decimal(text)))
    return False


def positive_rate(label: LabelValues, positive: Any) -> float:
    """Return the share of rows (0 to 1) that have the label ``positive``."""
    return round(label.counts[positive] / sum(label.counts.values()), 6)
