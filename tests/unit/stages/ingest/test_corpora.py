"""The files that the projects Parquet, Arrow, csv-spectrum and JSONTestSuite publish are read exactly, or refused with an error that is not retried.

Origin and licences: tests/data/corpora/README.md.
"""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.reader import Outcome, Reader

CORPORA = Path(__file__).parents[3] / "data" / "corpora"
# Limits for one file. The slowest file takes 0.2 s and 60 MB.
CPU_S, MEMORY_MB = 5, 500


def names(corpus: str, start: str) -> list[str]:
    """The files of a corpus whose names begin with ``start``."""
    with zipfile.ZipFile(CORPORA / f"{corpus}.zip") as archive:
        return sorted(name for name in archive.namelist() if name.startswith(start))


def content(corpus: str, name: str) -> bytes:
    with zipfile.ZipFile(CORPORA / f"{corpus}.zip") as archive:
        return archive.read(name)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader(CPU_S, MEMORY_MB) as reader:
        yield reader
        assert reader.close() == "0"


@pytest.fixture
def ingest(reader, tmp_path):
    def ingest(content: bytes, **options: Any) -> Outcome:
        path = tmp_path / "file"
        path.write_bytes(content)
        found = reader.ingest(path, **options)
        assert found.is_read_or_refused, found
        assert found.cpu_s < CPU_S
        assert found.peak_mb < MEMORY_MB
        return found

    return ingest


def by_duckdb(path: Path) -> list[dict[str, Any]]:
    with duckdb.connect() as connection:
        return connection.read_parquet(str(path)).to_arrow_table().to_pylist()


def plain(value: Any) -> Any:
    """A value in the form in which the values of both readers can be compared."""
    if isinstance(value, dict) and value.keys() == {"key", "value"}:
        return plain(value["key"]), plain(value["value"])
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    return value


# Files of Parquet's own collection that are not read, and why.
REFUSED = {
    "bad_data/ARROW-GH-41317.parquet": "columns do not have the same size",
    "bad_data/ARROW-GH-41321.parquet": "bit_width 254",
    "bad_data/ARROW-GH-45185.parquet": "repetition level",
    "bad_data/ARROW-GH-47662.parquet": "Unexpected end of stream",
    "bad_data/ARROW-RS-GH-6229-DICTHEADER.parquet": "Invalid column metadata",
    "bad_data/ARROW-RS-GH-6229-LEVELS.parquet": "levels do not match",
    "bad_data/PARQUET-1481.parquet": "Invalid physical column type",
    "data/column_chunk_key_value_metadata.parquet": "has no rows",
    "data/incorrect_map_schema.parquet": "Map keys must be annotated as required",
    "data/int96_from_spark.parquet": "row 6 that is outside the years 1 to 9999",
    "data/large_string_map.brotli.parquet": "rows of 1,024 MB",
    "data/rle-dict-uncompressed-corrupt-checksum.parquet": "CRC checksum",
}
# DuckDB refuses maps without values.
NOT_BY_DUCKDB = {"data/map_no_value.parquet"}


@pytest.mark.parametrize("name", names("parquet-testing", "bad_data/") + names("parquet-testing", "data/"))
def test_parquet_testing(name, ingest, tmp_path):
    found = ingest(content("parquet-testing", name), format="parquet")
    if name in REFUSED or not name.endswith(".parquet"):
        assert found.count is None
        assert REFUSED.get(name, "") in found.message
    elif name in NOT_BY_DUCKDB:
        assert found.count == 3
    else:
        assert found.count == len(found.rows) > 0
        assert plain(found.rows) == plain(by_duckdb(tmp_path / "file"))


def test_parquet_files_that_crashed_arrow(ingest):
    read = {}
    for name in names("arrow-testing", "data/parquet/fuzzing/"):
        found = ingest(content("arrow-testing", name), format="parquet")
        if found.count is not None:
            read[name.rpartition("-")[2]] = found.count
    assert read == {"5068991573000192": 24, "5382863341289472": 5120, "649c71a618ae2fd80cec177a9676eb3e280fc1fa": 7}


def test_csv_files_that_crashed_arrow(ingest):
    for name in names("arrow-testing", "data/csv/fuzzing/"):
        ingest(content("arrow-testing", name), format="csv")


@pytest.mark.parametrize("name", [Path(name).stem for name in names("csv-spectrum", "csvs/")])
def test_csv_spectrum(name, ingest):
    text = content("csv-spectrum", f"csvs/{name}.csv")
    if name.endswith("_crlf"):
        # Git stores them with LF, and checks them out with CRLF.
        text = text.replace(b"\n", b"\r\n")
    expected = json.loads(content("csv-spectrum", f"json/{name}.json"))
    expected = expected if isinstance(expected, list) else [expected]
    header = next(csv.reader(io.StringIO(text.decode())))
    found = ingest(text, format="csv", types=dict.fromkeys(header, "string"))
    assert [{name: value or "" for name, value in row.items()} for row in found.rows] == expected


# Not JSON by RFC 8259, but written by Python, R and others.
NOT_FINITE = {"NaN", "Infinity", "-Infinity", "Inf", "-NaN"}


def test_valid_json_values_are_read_exactly(ingest):
    """The files are the values of a field here, because the rows of a file are objects."""
    files = [content("JSONTestSuite", name) for name in names("JSONTestSuite", "test_parsing/y_")]
    rows = [b'{"v": ' + value + b"}" for value in files]
    found = ingest(b"[" + b",".join(rows) + b"]", format="json", types={"v": "string"}).rows
    lines = [row for row in rows if b"\n" not in row]
    same = ingest(b"\n".join(lines), format="jsonl", types={"v": "string"}).rows
    assert same == [row for row, text in zip(found, rows, strict=True) if b"\n" not in text]
    for value, row in zip(files, found, strict=True):
        expected = json.loads(value)
        assert (row["v"] if expected is None or isinstance(expected, str) else json.loads(row["v"])) == expected


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_other_json_values_are_read_or_refused(form, ingest):
    for name in names("JSONTestSuite", "test_parsing/n_") + names("JSONTestSuite", "test_parsing/i_"):
        value = content("JSONTestSuite", name)
        row = b'{"v": ' + value + b"}"
        for types in ({}, {"v": "string"}):
            found = ingest(b"[" + row + b"]" if form == "json" else row, format=form, types=types)
            if "/n_" in name and value.decode(errors="replace").strip("[]") not in NOT_FINITE:
                assert found.count is None, name


def test_json_test_suite_as_whole_files(ingest):
    for name in names("JSONTestSuite", "test_parsing/"):
        value = content("JSONTestSuite", name)
        found = ingest(value, format="json")
        if Path(name).name.startswith("n_"):
            assert found.count is None, name
        elif found.count is not None:
            assert found.rows == [json.loads(value)], name
