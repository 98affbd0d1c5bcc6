"""Reads CSV files."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile, read_as
from airflow_mlops.stages.ingest.sources.inference import untyped

_CELL = re.compile(r"In CSV column #(\d+): (?:.*)CSV conversion error to .+?: invalid value '(.*?)'", re.DOTALL)


def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a CSV file.

    :raises SchemaError: a value does not have the type of its column
    """
    from pyarrow import csv

    options = csv.ReadOptions(block_size=source_file.BLOCK_BYTES)
    parse = csv.ParseOptions(delimiter=file.spec.delimiter, newlines_in_values=True)
    # An unquoted empty text is null, and a quoted one is not. By default no other text is null ("NA" is a country code).
    nulls = {
        "null_values": ["", *file.spec.null_values],
        "strings_can_be_null": True,
        "quoted_strings_can_be_null": False,
    }
    try:
        with file.file as raw, csv.open_csv(raw, options, parse, csv.ConvertOptions(**nulls)) as reader:
            guessed = reader.schema
    except pa.ArrowInvalid as error:
        if "Empty CSV file" not in str(error):
            raise
        with file.hashed():
            return
    wanted = file.wanted_columns(guessed.names)
    # Other columns are text, whose type is inferred from all rows.
    kinds = {name: read_as(file.types.declared.get(name, pa.string())) for name in wanted}
    for name in wanted:
        if pa.types.is_binary(guessed.field(name).type) and name not in file.types.declared:
            raise SchemaError(
                f"Column {name!r} of {file.url} contains text that is not UTF-8. Convert the file to UTF-8, or ingest "
                f"the bytes unchanged with types={{{name!r}: 'binary'}}."
            )
    convert = csv.ConvertOptions(column_types=kinds, include_columns=wanted, **nulls)
    try:
        with file.hashed() as raw, csv.open_csv(raw, options, parse, convert) as reader:
            schema = pa.schema(
                [field if field.name in file.types.declared else untyped(field.name) for field in reader.schema]
            )
            for batch in reader:
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
    except pa.ArrowInvalid as error:
        found = _CELL.search(str(error))
        if found is None:
            raise
        name = guessed.names[int(found[1])]
        hint = f", or read this text as null with null_values=[{found[2]!r}]"
        raise file.types.mismatch(name, kinds[name], repr(found[2]), hint) from None
