"""What has changed about the columns themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from airflow_mlops.drift.findings import Drift, SchemaChange
from airflow_mlops.profiles.columns.base import plain
from airflow_mlops.profiles.profile import ColumnProfile, counter_for, nothing

_DICTIONARY = re.compile(r"^dictionary<values=(.*?), indices=.*>$")


def changes(
    features: Mapping[str, ColumnProfile], trained: Mapping[str, str], schemas: Sequence[pa.Schema]
) -> list[SchemaChange]:
    """The features that are gone or of another type, in the order of ``features``.

    :param features: their profiles at training, by name
    :param trained: the types of all columns at training, by name; empty where they are not known
    :param schemas: of the parts of the window, at least one
    """
    found = []
    for name, column in features.items():
        before = _plain(trained[name]) if name in trained else column.kind
        types = [plain(schema.field(name).type) for schema in schemas if schema.get_field_index(name) >= 0]
        if len(types) < len(schemas):
            found.append(SchemaChange(column=name, before=before, now=None, compared=False))
            continue
        now = " and ".join(sorted({str(item) for item in types}))
        # Where no row has a value there may be no type either.
        compared = all(map(pa.types.is_null, types)) or _kinds(types) == {nothing(column, 0).kind}
        if not compared or (name in trained and now not in (before, "null")):
            found.append(SchemaChange(column=name, before=before, now=now, compared=compared))
    return found


def added(trained: Iterable[str], schemas: Sequence[pa.Schema], ours: Iterable[str]) -> list[SchemaChange]:
    """The columns that are new.

    :param trained: the columns at training
    :param ours: columns that scoring and joining add
    """
    known = {*trained, *ours}
    new = {field.name: str(plain(field.type)) for schema in schemas for field in schema if field.name not in known}
    return [SchemaChange(column=name, before=None, now=kind, compared=False) for name, kind in new.items()]


def unmeasured(change: SchemaChange, kind: str) -> Drift:
    """The drift of a feature that cannot be compared.

    :param kind: what it was at training
    """
    why = "the column is gone" if change.now is None else f"it was {change.before} at training and is {change.now} now"
    return Drift(column=change.column, kind=kind, note=f"not measured: {why}")


def _kinds(types: Iterable[pa.DataType]) -> set[str | None]:
    counters = [counter_for(item) for item in types]
    return {None if counter is None else counter.result().kind for counter in counters}


def _plain(name: str) -> str:
    """The name of a type without the dictionary around it."""
    found = _DICTIONARY.match(name)
    return found[1] if found else name
