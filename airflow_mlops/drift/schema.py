"""Schema changes between the training set and a window."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from airflow_mlops.drift.findings import Drift, SchemaChange
from airflow_mlops.profiles.columns.base import plain
from airflow_mlops.profiles.profile import ColumnProfile, all_missing, counter_for

_DICTIONARY = re.compile(r"^dictionary<values=(.*?), indices=.*>$")


def changes(
    features: Mapping[str, ColumnProfile], trained: Mapping[str, str], schemas: Sequence[pa.Schema]
) -> list[SchemaChange]:
    """Find the features that disappeared or changed their type since training.

    :param features: profiles of the features at training, by name
    :param trained: types of all columns at training, by name; empty if unknown
    :param schemas: schemas of the datasets of the window, at least one
    :return: the changes, in the order of ``features``
    """
    found = []
    for name, column in features.items():
        before = _plain(trained[name]) if name in trained else column.kind
        types = [plain(schema.field(name).type) for schema in schemas if schema.get_field_index(name) >= 0]
        if len(types) < len(schemas):
            found.append(SchemaChange(column=name, before=before, now=None, compared=False))
            continue
        now = " and ".join(sorted({str(item) for item in types}))
        # A column with only null values may have the null type.
        compared = all(map(pa.types.is_null, types)) or _kinds(types) == {all_missing(column, 0).kind}
        if not compared or (name in trained and now not in (before, "null")):
            found.append(SchemaChange(column=name, before=before, now=now, compared=compared))
    return found


def added(trained: Iterable[str], schemas: Sequence[pa.Schema], ours: Iterable[str]) -> list[SchemaChange]:
    """Find the columns of a window that do not exist in the training set.

    :param trained: names of the columns at training
    :param schemas: schemas of the datasets of the window
    :param ours: names of the columns that this package adds when it scores rows and joins labels
    """
    known = {*trained, *ours}
    new = {field.name: str(plain(field.type)) for schema in schemas for field in schema if field.name not in known}
    return [SchemaChange(column=name, before=None, now=kind, compared=False) for name, kind in new.items()]


def unmeasured(change: SchemaChange, kind: str) -> Drift:
    """Return the finding for a feature that cannot be compared because of ``change``.

    :param change: how the column changed since training
    :param kind: kind of the feature's profile at training, such as ``numeric``
    """
    why = (
        "the column is absent" if change.now is None else f"it was {change.before} at training and is {change.now} now"
    )
    return Drift(column=change.column, kind=kind, note=f"not measured: {why}")


def _kinds(types: Iterable[pa.DataType]) -> set[str | None]:
    counters = [counter_for(item) for item in types]
    return {None if counter is None else counter.result().kind for counter in counters}


def _plain(name: str) -> str:
    """Return the name of a dictionary's value type. Names of other types are returned unchanged."""
    found = _DICTIONARY.match(name)
    return found[1] if found else name
