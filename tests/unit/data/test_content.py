"""The hash of the content of rows depends on the values only."""

from __future__ import annotations

import io
from datetime import date, datetime, timezone
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.data.datasets.content import ContentHash

NESTED = pa.struct([("x", pa.float64()), ("y", pa.list_(pa.string()))])
VALUES = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.decimal128(20, 3): st.decimals(-(10**10), 10**10, places=3),
    pa.string(): st.text(max_size=5),
    pa.large_string(): st.text(max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(timezone.utc)),
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(0, 9), max_size=3),
    pa.list_(pa.float64(), 2): st.lists(st.floats(allow_nan=False), min_size=2, max_size=2),
    NESTED: st.fixed_dictionaries(
        {
            "x": st.none() | st.floats(allow_nan=False),
            "y": st.none() | st.lists(st.none() | st.text(max_size=2), max_size=2),
        }
    ),
    pa.null(): st.none(),
    pa.dictionary(pa.int32(), pa.string()): st.text(max_size=3),
}


@st.composite
def columns(draw):
    kind = draw(st.sampled_from([*VALUES]))
    return kind, draw(st.lists(st.none() | VALUES[kind], max_size=12))


def hashed(table: pa.Table) -> str:
    found = ContentHash(table.schema)
    found.update(table)
    return found.hexdigest()


def as_table(kind: pa.DataType, values: list[object]) -> pa.Table:
    return pa.table({"a": pa.array(values, kind)})


@settings(max_examples=300)
@given(columns(), st.lists(st.integers(0, 12), max_size=4))
def test_batches_slices_and_files_make_no_difference(column, cuts):
    table = as_table(*column)
    whole = hashed(table)
    edges = [0, *sorted(min(cut, len(table)) for cut in cuts), len(table)]
    found = ContentHash(table.schema)
    for start, end in zip(edges, edges[1:], strict=False):
        found.update(table.slice(start, end - start))
    assert found.hexdigest() == whole
    # The arrays have different memory: different content in the places of nulls, and different offsets.
    padded = pa.concat_tables([table, table, table]).combine_chunks().slice(len(table), len(table))
    assert hashed(padded) == whole
    masked = pa.concat_tables([table]).combine_chunks()
    assert hashed(masked) == whole
    # Arrow cannot read lists of fixed size with nulls from a file.
    if not pa.types.is_null(column[0]) and not pa.types.is_fixed_size_list(column[0]):
        file = io.BytesIO()
        pq.write_table(table, file)
        assert hashed(pq.read_table(file, schema=table.schema)) == whole


@settings(max_examples=300)
@given(columns(), st.data())
def test_other_values_have_another_hash(column, data):
    kind, values = column
    others = data.draw(st.lists(st.none() | VALUES[kind], max_size=12) | st.permutations(values))
    same = pa.array(values, kind).to_pylist() == pa.array(others, kind).to_pylist()
    # The bytes of 0.0 and -0.0 differ.
    if same and "-0.0" in repr(values) + repr(others):
        return
    assert (hashed(as_table(kind, values)) == hashed(as_table(kind, list(others)))) == same


def test_content_behind_a_null_makes_no_difference():
    plain = pa.array([1, None, 3], pa.int64())
    behind = pa.Array.from_buffers(pa.int64(), 3, [plain.buffers()[0], pa.py_buffer(bytes(range(24)))])
    values = pa.Array.from_buffers(
        pa.int64(), 3, [None, pa.py_buffer(b"".join(n.to_bytes(8, "little") for n in (1, 77, 3)))]
    )
    masked = pa.Array.from_buffers(pa.int64(), 3, [plain.buffers()[0], values.buffers()[1]])
    assert masked.to_pylist() == plain.to_pylist() != behind.to_pylist()
    assert hashed(pa.table({"a": masked})) == hashed(pa.table({"a": plain}))
    assert hashed(pa.table({"a": behind})) != hashed(pa.table({"a": plain}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["ab", "c"]), pa.array(["a", "bc"])),
        (pa.array(["", None]), pa.array([None, ""])),
        (pa.array([[1], [2, 3]]), pa.array([[1, 2], [3]])),
        (pa.array([[None], []], pa.list_(pa.int64())), pa.array([[], [None]], pa.list_(pa.int64()))),
        (pa.array([None], pa.list_(pa.int64())), pa.array([[]], pa.list_(pa.int64()))),
        (pa.array([None], NESTED), pa.array([{"x": None, "y": None}], NESTED)),
        (pa.array([0, None]), pa.array([None, 0])),
        (pa.array([None], pa.null()), pa.array([None, None], pa.null())),
    ],
)
def test_similar_columns_differ(one, other):
    assert hashed(pa.table({"a": one})) != hashed(pa.table({"a": other}))


def test_the_hash_of_these_values_never_changes():
    table = pa.table(
        {
            "flag": pa.array([True, None, False]),
            "number": pa.array([1, -2, None], pa.int64()),
            "share": pa.array([0.5, None, -1e300]),
            "price": pa.array([Decimal("1.500"), None, Decimal("-2.250")], pa.decimal128(20, 3)),
            "name": pa.array(["a", None, "ü"]),
            "day": pa.array([date(2013, 4, 1), None, date(1, 1, 1)]),
            "at": pa.array([datetime(2013, 4, 1, tzinfo=timezone.utc), None, None], pa.timestamp("us", "UTC")),
            "list": pa.array([[1.5], None, []], pa.list_(pa.float64())),
            "pair": pa.array([{"x": 1.0, "y": ["b"]}, None, {"x": None, "y": None}], NESTED),
        }
    )
    assert hashed(table) == "4e8807c086588127c2ce0cf231ec8d8587806f461cfa2bf440bb073cd0dae1ff"
