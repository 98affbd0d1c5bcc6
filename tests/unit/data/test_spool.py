"""Tables in a temporary file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa

from airflow_mlops.data.spool import spooled


def test_tables_become_one_table_in_a_file_that_is_deleted_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tables = [pa.table({"number": range(start, start + 3), "words": [["a"], None, []]}) for start in (0, 3, 6)]
    allocated = pa.total_allocated_bytes()
    with spooled(iter(tables)) as table:
        assert table == pa.concat_tables(tables)
        assert [file.name for file in tmp_path.rglob("*.arrow")] == ["table.arrow"]
        # The columns lie in the file, not in memory.
        assert pa.total_allocated_bytes() - allocated < 1_000
    assert list(Path(tmp_path).iterdir()) == []
