"""Reads JSON Lines files, which contain one JSON object per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile

_WHOLE = re.compile(r"-?\d+$")
_KIND_CHANGED = re.compile(r"Column\(/([^/)]+)[^)]*\) changed from (\w+) to (\w+)")
_VALUE_REFUSED = re.compile(r"Failed to convert JSON to (.+), couldn't parse:\s*(.*)", re.DOTALL)


def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a JSON lines file.

    :raises SchemaError: a value does not have the type of its column, or a later line has a new field
    """
    from pyarrow import json as arrow_json

    options = arrow_json.ReadOptions(block_size=source_file.BLOCK_BYTES)
    try:
        with file.file as raw, arrow_json.open_json(raw, options) as reader:
            guessed = reader.schema
    except pa.ArrowInvalid as error:
        if "Empty JSON" not in str(error):
            raise
        with file.hashed():
            return
    # Fields that are declared or occur in earlier files may be absent in the first block and occur in later lines.
    expected = {**file.types.declared, **file.known_types()}
    kinds = {**{name: source_file.read_as(kind) for name, kind in expected.items()}, **file.column_types(guessed)}
    present = [*guessed.names, *(name for name in kinds if name not in guessed.names)]
    wanted = file.wanted_columns(present)
    parse = arrow_json.ParseOptions(
        explicit_schema=pa.schema([(name, kinds[name]) for name in wanted]),
        unexpected_field_behavior="ignore" if file.spec.columns is not None else "error",
    )
    try:
        with file.hashed() as raw, arrow_json.open_json(raw, options, parse) as reader:
            for batch in reader:
                _require_exact(file, batch)
                yield batch
    except pa.ArrowInvalid as error:
        _explain(file, kinds, str(error))
        raise


def _require_exact(file: SourceFile, batch: pa.RecordBatch) -> None:
    """Check that no number was rounded. Arrow reads whole numbers of more than 64 bits as floating-point numbers.

    :raises SchemaError: a column contains whole numbers that float64 cannot represent
    """
    for field, array in zip(batch.schema, batch.columns, strict=True):
        if not pa.types.is_float64(field.type) or field.name in file.types.declared:
            continue
        if pc.any(pc.greater_equal(pc.abs(array), 2.0**53)).as_py():
            value = _rounded_integer(file, field.name)
            if value is not None:
                raise SchemaError(
                    f"Column {field.name!r} of {file.url} contains the whole number {value}, which float64 cannot "
                    f"represent exactly. Declare types={{{field.name!r}: 'decimal128(38, 0)'}}, or 'float64' to round "
                    "it."
                )


def _rounded_integer(file: SourceFile, name: str) -> str | None:
    values = (line.get(name) for line in _lines(file))
    whole = (value for value in values if isinstance(value, str) and _WHOLE.match(value))
    return next((value for value in whole if int(float(value)) != int(value)), None)


def _explain(file: SourceFile, kinds: dict[str, pa.DataType], problem: str) -> None:
    """Raise an error that names the field, if the cause can be found in Arrow's message.

    :raises SchemaError: the type of a field changes, or a later line has a new field
    """
    if found := _KIND_CHANGED.search(problem):
        raise file.types.mismatch(found[1], kinds.get(found[1], found[2]), f"a {found[3]}") from None
    if found := _VALUE_REFUSED.search(problem):
        names = [name for name, kind in kinds.items() if str(kind) == found[1]]
        name = names[0] if len(names) == 1 else _field_with_value(file, names, found[2])
        raise file.types.mismatch(name, found[1], repr(found[2])) from None
    if "unexpected field" in problem:
        name = _field_not_in(file, set(kinds))
        raise SchemaError(
            f"A later line of {file.url} has the field {name!r}, which is absent in earlier lines. "
            f"Declare its type with types={{{name!r}: ...}}, or list the columns to ingest in `columns`."
        ) from None


def _lines(file: SourceFile) -> Iterator[dict[str, Any]]:
    with file.file as raw:
        for line in raw:
            if line.strip():
                yield json.loads(line, parse_float=str, parse_int=str)


def _field_with_value(file: SourceFile, names: Sequence[str], value: str) -> str:
    """Find the first of the fields ``names`` that contains ``value``. Arrow's message does not name the field."""
    return next((name for line in _lines(file) for name in names if line.get(name) == value), names[0])


def _field_not_in(file: SourceFile, known: set[str]) -> str:
    return next((name for line in _lines(file) for name in line if name not in known), "?")
