"""Malformed files end in one final error of this package, and never in a crash or another exception."""

from __future__ import annotations

import gzip
import io
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.core import OpenFile
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import MalformedFileError, SchemaError, SpecError
from airflow_mlops.data.incoming.types import ColumnTypes
from airflow_mlops.stages.ingest.sources.files import read_file
from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.spec import IngestSpec


def read(form, content, name="a", **options):
    store = MemoryFileSystem()
    store.pipe_file(f"/malformed/{name}", content)
    spec = IngestSpec(name="a", files=[name], format=form, **options)
    compression = "gzip" if name.endswith(".gz") else None
    file = OpenFile(store, f"/malformed/{name}", compression=compression)
    found = source_file.SourceFile(file, spec, ColumnTypes(), None, [])
    return [row for batch in read_file(form, found) for row in batch.to_pylist()]


def read_or_refuse(form, content, **options):
    """Read a file. Any exception but the final ones of this package fails the test."""
    try:
        return read(form, content, **options)
    except (MalformedFileError, SchemaError, SpecError) as error:
        refusal = error
    assert not refusal.retryable
    assert "\n" not in str(refusal)
    return None


def parquet_file():
    sink = io.BytesIO()
    table = pa.table({"a": [1, None, 3] * 50, "s": ["x", "y", None] * 50, "l": [[1], [], None] * 50})
    pq.write_table(table, sink, row_group_size=60)
    return sink.getvalue()


WHOLE = {
    "csv": b"a,b,c\n" + b'1,"x, y",2.5\n2,"say ""hi""",\n\n3,"two\nlines",nan\n' * 3,
    "json": b'{"n": 2, "rows": [{"a": 1, "b": {"c": [1, 2]}}, {"a": null, "b": {"c": []}}], "x": "\\u00e9"}',
    "jsonl": b'{"a": 1, "b": "x"}\n{"a": 2.5, "b": "\\ud83d\\ude00"}\n\n{"a": null, "b": "]}"}\n',
    "parquet": parquet_file(),
}


@pytest.mark.parametrize("form", WHOLE)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(form, data, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", data.draw(st.sampled_from([32, 1 << 20])))
    content = bytearray(WHOLE[form])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"\\", b"\n", b"{", b"[", b",", b"null", b"\0"])
        )
        cut = data.draw(st.sampled_from([0, 1, len(piece), 50]))
        content[at : at + cut] = piece
        if not content:
            break
    path = "rows" if form == "json" else None
    read_or_refuse(form, bytes(content), record_path=path)


@pytest.mark.parametrize("form", WHOLE)
@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200) | st.text('{}[]",:0a\\ \n\r\t;null', max_size=60).map(str.encode))
@example(content=b"null")
@example(content=b'{"a":1}\n[]')
@example(content=b"\xff\xfe")
@example(content=b"\xef\xbb\xbf")
@example(content=b'"')
@example(content=b'sep="')
def test_anything_is_read_or_refused(form, content):
    read_or_refuse(form, content)


@pytest.mark.parametrize("form", WHOLE)
def test_a_truncated_file_is_not_read_in_part(form):
    whole = read(form, WHOLE[form], record_path="rows" if form == "json" else None)
    assert len(whole) >= 2
    for end in range(
        1, len(WHOLE["parquet"]) if form == "parquet" else len(WHOLE[form]), 37 if form == "parquet" else 1
    ):
        found = read_or_refuse(form, WHOLE[form][:end], record_path="rows" if form == "json" else None)
        if form in ("json", "parquet"):
            assert found is None
        compressed = gzip.compress(WHOLE[form])
    for end in range(1, len(compressed)):
        with pytest.raises(MalformedFileError):
            read(form, compressed[:end], name="a.gz", record_path="rows" if form == "json" else None)


@pytest.mark.parametrize(
    ("form", "content"), [("csv", b"a,b\n1,2\n3\n" * 500), ("jsonl", b'{"a": 1}\n{"a": }\n' * 500)]
)
def test_only_the_thread_that_reads_touches_the_file(form, content, monkeypatch):
    # A thread of Arrow that calls a Python file while the interpreter exits aborts the process.
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 64)
    threads = set()

    class Watched(io.BytesIO):
        def read(self, size=-1):
            threads.add(threading.get_ident())
            return super().read(size)

    monkeypatch.setattr(OpenFile, "__enter__", lambda self: Watched(content))
    for _ in range(20):
        assert read_or_refuse(form, content) is None
    assert threads == {threading.get_ident()}


def test_names_with_line_breaks_are_quoted_in_errors():
    with pytest.raises(SchemaError, match=r"The columns are: x, 'a\\nb'\.") as raised:
        read("csv", b'x,"a\nb"\n1,2\n', columns=["c"])
    assert "\n" not in str(raised.value)
