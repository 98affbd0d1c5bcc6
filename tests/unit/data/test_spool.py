"""Rows in a temporary file."""

from __future__ import annotations

import errno
import os
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import SpillError
from airflow_mlops.data import spool
from airflow_mlops.data.spool import spooled


def numbered(rows: int) -> pa.Table:
    return pa.table(
        {
            "number": np.arange(rows),
            "text": [None if n % 7 == 0 else f"é{n % 11}" for n in range(rows)],
            "words": [["a"], None, []] * (rows // 3) + [["b"]] * (rows % 3),
        }
    )


def test_rows_lie_in_a_file_that_is_deleted_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    table = numbered(200_000)
    pieces = [table.slice(start, 30_001) for start in range(0, 200_000, 30_001)]
    allocated = pa.total_allocated_bytes()
    with spooled(pieces) as rows:
        names = {file.name for file in tmp_path.rglob("*.arrow")}
        assert names == {"0.arrow", "1.arrow", "2.arrow", "3.arrow", "compressed.arrow"}
        assert pa.total_allocated_bytes() - allocated < 1_000
        assert len(rows) == 200_000
        assert rows.slice().equals(table)
        assert rows["text"].equals(table["text"])
        assert pa.Table.from_batches(rows.to_batches()).equals(table)
    assert list(tmp_path.iterdir()) == []


def test_only_rows_beyond_the_first_ones_are_compressed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(spool, "_PLAIN_BYTES", 1_000_000)
    with spooled([pa.table({"x": np.zeros(400_000)})]):
        sizes = {file.name: file.stat().st_size for file in tmp_path.rglob("*.arrow")}
    assert sizes.pop("compressed.arrow") < 100_000
    assert 1_000_000 <= sum(sizes.values()) < 1_600_000


def test_rows_that_are_read_hold_neither_memory_nor_an_open_file():
    with spooled([numbered(3 * spool.BATCH_ROWS)]) as rows:
        allocated, open_files = pa.total_allocated_bytes(), len(list(Path("/proc/self/fd").iterdir()))
        batches = list(rows.to_batches())
        assert len(batches) == 3
        assert pa.total_allocated_bytes() - allocated < 1_000
        assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    # The rows outlive the files.
    assert pa.Table.from_batches(batches).equals(numbered(3 * spool.BATCH_ROWS))


def test_rows_that_are_read_need_no_more_addresses_than_their_files():
    def addresses() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    with spooled([pa.table({f"x{n}": np.zeros(spool.BATCH_ROWS) for n in range(20)})] * 12) as rows:
        before = addresses()
        batches = list(rows.to_batches())
        # With a mapping of all 126 MB for each batch, it would be 1.5 GB.
        assert addresses() - before < 300 << 20
        assert len(batches) == 12


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 25),
    st.lists(st.integers(0, 9), max_size=4),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([0, 300, 1 << 20]),
    st.data(),
)
def test_rows_are_read_like_those_of_a_table(count, cuts, offset, length, plain_bytes, data):
    table = numbered(count)
    indices = pa.array(data.draw(st.lists(st.integers(0, count - 1), max_size=9)) if count else [], pa.int64())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "BATCH_ROWS", 4)
        patch.setattr(spool, "_PLAIN_BYTES", plain_bytes)
        pieces = [table.slice(start, 3) for start in range(0, count, 3)]
        pieces[1:1] = [table.slice(0, 0)] * len(cuts)
        with spooled(pieces, table.schema) as rows:
            chosen = rows.select(["words", "number"]).rename_columns(["w", "n"])
            expected = table.select(["words", "number"]).rename_columns(["w", "n"])
            assert chosen.slice(offset, length).equals(expected.slice(offset, length))
            assert chosen.take(indices).equals(expected.take(indices))


def test_columns_of_two_files_stand_beside_each_other():
    one, other = pa.table({"a": range(9), "b": range(9, 18)}), pa.table({"c": list("abcdefghi")})
    with spooled([one]) as left, spooled([other.slice(0, 5), other.slice(5)]) as right:
        both = left.select(["b"]).beside(right).converted("b", pa.float64(), lambda values: pc.divide(values, 2.0))
        assert both.schema == pa.schema([("b", pa.float64()), ("c", pa.string())])
        assert both.slice(7).to_pydict() == {"b": [8.0, 8.5], "c": ["h", "i"]}


def test_a_column_of_categories_is_stored_as_its_values():
    pieces = [pa.table({"c": pa.array(words).dictionary_encode()}) for words in (["a", "b"], ["b", "c", None])]
    with spooled(pieces) as rows:
        assert rows["c"].to_pylist() == ["a", "b", "b", "c", None]
        assert rows.schema.field("c").type == pa.string()


@pytest.mark.parametrize("plain_bytes", [0, 1 << 20])
def test_categories_inside_of_lists_and_structs_are_stored_as_their_values(monkeypatch, plain_bytes):
    monkeypatch.setattr(spool, "_PLAIN_BYTES", plain_bytes)
    words = pa.dictionary(pa.int32(), pa.string())
    values = {
        pa.list_(words): ([["a", "b"], None], [["c"], [None, "b"]]),
        pa.large_list(words): ([["a"]], [["b"]]),
        pa.list_(words, 2): ([["a", "b"]], [["c", "a"]]),
        pa.map_(pa.string(), words): ([[("k", "a")]], [[("k", "b"), ("l", None)]]),
        pa.struct([("w", words), ("n", pa.list_(words))]): ([{"w": "a", "n": ["b"]}], [{"w": "c", "n": None}]),
    }
    for kind, (one, other) in values.items():
        # The batches have different dictionaries.
        pieces = [pa.table({"c": pa.array(each, kind)}) for each in (one, other)]
        monkeypatch.setattr(spool, "BATCH_ROWS", len(one))
        with spooled(pieces) as rows:
            assert rows["c"].to_pylist() == [*one, *other]
            assert "dictionary" not in str(rows.schema.field("c").type)


def test_decimals_keep_their_digits():
    values = [Decimal("12345678901234567890.12"), None]
    with spooled([pa.table({"d": values})]) as rows:
        assert rows["d"].to_pylist() == values


def test_a_full_disk_is_one_clear_error():
    def full():
        yield pa.table({"a": [1]})
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SpillError, match="disk is full") as raised, spooled(full()):
        pass
    # Another try may find more space.
    assert raised.value.retryable
