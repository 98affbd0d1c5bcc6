"""Files of extreme shapes are read, or refused, within limits of CPU time and memory."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fsspec.core import OpenFile
from fsspec.implementations.memory import MemoryFileSystem

from airflow_mlops.data.incoming.types import ColumnTypes
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.spec import IngestSpec
from tests.support.reader import Outcome, Reader

MB = 1 << 20
# A row may have 64 MB. Here it may have 16 MB, which is faster.
ROW_MB = 16
LONG = 20 * MB
# On an idle machine, each file takes up to 2 s.
CPU_S, MEMORY_MB = 20, 300


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader(CPU_S, MEMORY_MB + 500, ROW_MB) as reader:
        yield reader
        assert reader.close() == "0"


@pytest.fixture
def ingest(reader, tmp_path) -> Callable[..., Outcome]:
    def ingest(name: str, write: Callable[[Any], object], **options: Any) -> Outcome:
        with (tmp_path / name).open("wb") as file:
            write(file)
        found = reader.ingest(tmp_path / name, with_rows=False, **options)
        (tmp_path / name).unlink()
        assert found.is_read_or_refused, found
        assert found.peak_mb < MEMORY_MB, found
        return found

    return ingest


def repeated(piece: bytes, size: int, start: bytes = b"", end: bytes = b"") -> Callable[[Any], object]:
    """Return a function that writes a piece until a file has ``size`` bytes."""

    def write(file: Any) -> None:
        block = piece * (MB // len(piece))
        file.write(start)
        for _ in range(size // len(block)):
            file.write(block)
        file.write(end)

    return write


@pytest.mark.parametrize(
    ("name", "piece", "csv"),
    [
        ("a.csv", b"a", {}),
        ("a.csv", b'"', {}),
        # JSON in a CSV file, without line breaks.
        ("a.csv", b'{"a":', {}),
        ("a.csv", b'\\"', {"escapechar": "\\"}),
        ("a.csv", b' "a",', {"skipinitialspace": True}),
        ("a.csv", b"a,", {"comment": "#"}),
        ("a.json", b" ", {}),
        ("a.json", b"[", {}),
        ("a.json", b'{"a":', {}),
        ("a.jsonl", b"[", {}),
    ],
)
def test_a_line_that_is_too_long_is_refused(name, piece, csv, ingest):
    starts = {"a.csv": b"a,b\n", "a.json": b'[{"a": 1}, ', "a.jsonl": b'{"a": 1}\n'}
    assert ingest(name, repeated(piece, LONG, starts[name]), csv=csv).count is None


def test_a_row_of_millions_of_quoted_values_is_refused(ingest):
    found = ingest("a.csv", repeated(b'"a",', 5 * MB, b"a,b\n"))
    assert "irregular" in found.message


def test_a_quoted_value_of_many_quotes_is_read(ingest):
    spaced = repeated(b'""', 8 * MB, b'a, b\n1, "', b'"\n')
    assert ingest("a.csv", spaced, csv={"skipinitialspace": True}).count == 1
    assert ingest("a.csv", repeated(b'{""x"":1},\n', 8 * MB, b'a,b\n1,"', b'"\n')).count == 1


def test_a_long_text_beside_many_brackets_is_read(ingest):
    brackets = b"[" + b",".join([b"[]"] * 200) + b"]"
    assert ingest("a.jsonl", repeated(b"x", 12 * MB, b'{"a": ' + brackets + b', "b": "', b'"}\n')).count == 1


def test_a_million_short_rows_are_read(ingest):
    assert ingest("a.csv", repeated(b"1\n", 2 * MB, b"a\n")).count == MB
    assert ingest("a.jsonl", repeated(b'{"a":1}\n', 4 * MB)).count == MB // 2


@pytest.mark.parametrize("name", ["a.csv.gz", "a.json.gz", "a.jsonl.gz", "a.parquet.gz"])
def test_a_small_file_that_unpacks_to_a_large_one_is_refused(name, ingest):
    def write(file: Any) -> None:
        with gzip.open(file, "wb", 1) as packed:
            repeated(b"x", 2 * LONG)(packed)

    assert ingest(name, write).count is None


def test_the_columns_of_a_wide_file_are_compared_in_linear_time():
    names = [f"column_{number}" for number in range(30_000)]
    spec = IngestSpec(name="a", files=["a"])
    file = SourceFile(OpenFile(MemoryFileSystem(), "/a"), spec, ColumnTypes(), None, [])
    started = time.process_time()
    assert file.wanted_columns(names) == names
    assert time.process_time() - started < 2
