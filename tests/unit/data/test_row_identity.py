"""Row ids: computed in slices, and the same however the rows are divided."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.data import row_identity
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.row_identity import row_ids, shared_rows
from airflow_mlops.data.store import ArtifactStore
from tests.support.deployed import write

KINDS = {
    pa.int64(): [0, 1, None],
    pa.float64(): [0.0, -0.0, float("nan"), 1.5, None],
    pa.string(): ["", "a", "~", "=", None],
    pa.binary(): [b"a", b"\xff", None],
    pa.decimal128(9, 2): [Decimal("1.50"), Decimal("2.00"), None],
    pa.timestamp("ns"): [1, 1000, None],
    pa.date32(): [date(2024, 3, 5), None],
    pa.list_(pa.int64()): [[1], None],
}


@pytest.fixture(scope="module", autouse=True)
def small_slices():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_identity, "_SLICE_ROWS", 3)
        yield


@given(st.sampled_from(list(KINDS)), st.sampled_from(list(KINDS)), st.data())
def test_ids_do_not_depend_on_how_rows_are_divided(one, other, data):
    rows = data.draw(st.integers(0, 10))
    table = pa.table(
        {
            name: pa.array(data.draw(st.lists(st.sampled_from(KINDS[kind]), min_size=rows, max_size=rows)), kind)
            for name, kind in (("a", one), ("b", other))
        }
    )
    cut = data.draw(st.integers(0, rows))
    found = row_ids(table, ["a", "b"])
    assert np.array_equal(found, row_ids(pa.concat_tables([table.slice(0, cut), table.slice(cut)]), ["a", "b"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_identity, "_SLICE_ROWS", 100)
        assert np.array_equal(found, row_ids(table, ["a", "b"]))


def test_ids_do_not_change_with_the_versions_of_this_package_and_of_pandas():
    # If the ids changed, `split="hash"` would move rows between the split parts.
    table = pa.table({"n": [1, None], "x": [0.5, float("nan")], "s": ["a", None], "b": [b"\xff", b"a"]})
    assert row_ids(table, table.column_names).tolist() == [17497461977003348910, 2391307791109263770]


def test_shared_rows_are_found_by_keys_of_bytes_that_are_not_all_utf8(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())

    def training_set(name, keys):
        table = pa.table({"k": pa.array(keys, pa.binary()), "split": ["test"] * len(keys)})
        return open_dataset(store, write(store, name, table, details={"keys": ["k"], "split": "split"}))

    first, second = training_set("first", [b"a", b"b", b"\xff"]), training_set("second", [b"a", b"c"])
    assert shared_rows(first, None, second, None) == shared_rows(second, None, first, None) == 1


def test_equal_numbers_of_several_types_have_the_same_id():
    keys = [
        pa.array([12_345_678_901, 0, 7], pa.int64()),
        pa.array([12_345_678_901.0, -0.0, 7.0], pa.float64()),
        pa.array([12_345_678_901, 0, 7], pa.decimal128(38, 10)),
    ]
    ids = [row_ids(pa.table({"k": key}), ["k"]).tolist() for key in keys]
    assert ids == [ids[0]] * 3
