"""Keys of predictions that a label has in another form."""

from __future__ import annotations

import unicodedata
from datetime import datetime

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.stages.join_labels.keys import comparable
from airflow_mlops.stages.join_labels.near_misses import NearMisses, find, most_frequent

DATABASE = duckdb.connect()


def missed(one: list, other: list, kind: pa.DataType | None = None, hashed: tuple[str, ...] = ()) -> NearMisses | None:
    left, right = comparable(pa.table({"k": pa.array(one, kind)}), pa.table({"k": pa.array(other)}), "flights")
    known = set(right["k"].to_pylist()) - {None}
    return unmatched(
        left.filter(pa.array([key not in known for key in left["k"].to_pylist()], pa.bool_())), right, hashed
    )


def unmatched(left: pa.Table, right: pa.Table, hashed: tuple[str, ...] = ()) -> NearMisses | None:
    """Find the near misses of predictions, read in tables of two rows."""

    def read(table: pa.Table):
        return lambda: ((row, table.slice(row, 2)) for row in range(0, table.num_rows, 2))

    return most_frequent([find(DATABASE, read(left), read(right), left.schema, hashed)])


FORMS = [
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.%f", "%Y%m%d",
    "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m/%d/%y", "%Y/%m/%d", "%d %B %Y", "%d-%b-%Y", "%m/%d/%Y %I:%M %p",
]  # fmt: skip


@given(
    st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2069, 1, 1)), min_size=1, max_size=20, unique=True),
    st.sampled_from(FORMS),
    st.sampled_from(FORMS),
)
def test_times_in_two_forms_never_match_and_are_always_found(times, one, other):
    left, right = ([time.strftime(form) for time in times] for form in (one, other))
    found = missed([*left, None], right)
    if one == other:
        assert found is None
        return
    assert found == NearMisses(len(times), "k", left[0], right[0], are_times=True)


@given(
    st.lists(st.from_regex(r"[a-z]{1,3}[0-9]{0,4}", fullmatch=True), min_size=1, max_size=20, unique=True),
    st.sampled_from([str.upper, lambda key: f" {key}", lambda key: f"{key}\t", lambda key: f"{key.upper()} "]),
)
def test_text_that_is_written_differently_is_found_for_each_prediction(keys, change):
    found = missed([change(key) for key in keys], keys)
    assert (found.rows, found.are_times) == (len(keys), False)
    assert found.prediction == change(found.label)
    assert missed(keys, keys) is None


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ([7, 8], ["007", "x"], pa.int64()),
        (["7"], ["007"], None),
        (["0"], ["000"], None),
        (["-7"], ["-07"], None),
        (["7.0"], ["7"], None),
        ([7], ["7.0"], pa.int64()),
        (["3/5/2024"], ["03/05/2024"], None),
        (["New  York"], ["New York"], None),
        (["Zürich"], [unicodedata.normalize("NFD", "Zürich")], None),
        (["STRASSE"], ["strasse"], None),
    ],
)
def test_forms_of_one_key(one, other, kind):
    for left, right in ((one, other), (other, one)):
        found = missed(left, right, kind if left is one else None)
        assert (found.rows, found.are_times) == (1, False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["7"], ["8"]),
        (["1.10"], ["1.1"]),
        (["1E5"], ["100000"]),
        (["10"], ["1"]),
        (["a"], [None]),
        ([None], ["a"]),
        (["a"], []),
        # The labels have not arrived yet, so their form is unknown.
        (["2024-03-05"], ["2024-03-04"]),
        (["20240305"], ["20240304"]),
        (["20240305"], ["10000001"]),
        # The labels may have several forms, and any of them is accepted.
        (["3/5/2024", "2024-03-05"], ["2024-03-04", "3/4/2024"]),
        (["1.10.3"], ["flight"]),
    ],
)
def test_other_keys_are_not_found(one, other):
    assert missed(one, other) is None


def test_hashes_and_numbers_have_no_forms():
    assert missed(["AB"], ["ab"], hashed=("k",)) is None
    assert missed([7], [8], pa.int64()) is None


def test_only_one_column_differs():
    left = pa.table({"day": ["2024-03-05"] * 3, "id": ["a", "b", "C"], "n": [1, 2, 3]})
    right = pa.table({"day": ["2024-03-05"] * 3, "id": ["a", "c", "c"], "n": [1, 3, 4]})
    found = unmatched(left.slice(1), right)
    assert found == NearMisses(1, "id", "C", "c", are_times=False)
    # The other columns must match, too.
    assert unmatched(left.slice(1), right.slice(2)) is None


def test_keys_that_look_the_same_are_written_with_escapes():
    found = missed(["caf\u00e9"], ["cafe\u0301"])
    assert r"'caf\xe9' in the predictions and 'cafe\u0301'" in found.explain(1, "orders")
    assert r"'caf\xe9' in the predictions but 'cafe\u0301'" in found.note("orders")
    assert "'7' in the predictions and '007'" in missed(["7"], ["007"]).explain(1, "orders")
