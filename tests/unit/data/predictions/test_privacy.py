"""Columns hashed with a key: equal values have equal hashes, and hashes reveal nothing else."""

from __future__ import annotations

import hashlib
import hmac
from datetime import date, datetime, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from airflow_mlops.core.base import parse
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.data.predictions.privacy import Privacy, Pseudonymizer
from airflow_mlops.stages.score.spec import ScoreSpec

KEY = "0123456789abcdef-a-key"
HASHED = Pseudonymizer(KEY.encode())


def connection(password: str | None) -> ConnectionInfo:
    return ConnectionInfo(conn_id="keys", conn_type="generic", password=SecretStr(password) if password else None)


def test_a_hash_is_the_hmac_sha256_of_the_values_text():
    expected = [hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest() for text in ("é1", "7")]
    assert HASHED.hash_column(pa.array(["é1"])).to_pylist() == expected[:1]
    assert HASHED.hash_column(pa.array([7, None])).to_pylist() == [expected[1], None]


@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)))
def test_hashes_do_not_depend_on_the_width_of_the_type(values):
    wide = HASHED.hash_column(pa.array(values, pa.int64())).to_pylist()
    for kind in (pa.int32(), pa.float64(), pa.decimal128(19, 0)):
        assert HASHED.hash_column(pa.array(values, pa.int64()).cast(kind)).to_pylist() == wide
    texts = pa.array([None if value is None else str(value) for value in values], pa.string())
    assert HASHED.hash_column(texts).to_pylist() == wide
    assert HASHED.hash_column(texts.dictionary_encode()).to_pylist() == wide


@given(st.lists(st.none() | st.text(max_size=4), max_size=30))
def test_hashes_are_equal_if_and_only_if_values_are(values):
    hashes = HASHED.hash_column(pa.chunked_array([pa.array(values, pa.string())])).to_pylist()
    assert [value is None for value in values] == [value is None for value in hashes]
    assert len(set(hashes)) == len(set(values))
    assert dict(zip(values, hashes, strict=True)) == {value: hashes[values.index(value)] for value in values}


def test_a_missing_number_has_no_hash_and_no_scale_changes_the_hash_of_a_decimal():
    numbers = HASHED.hash_column(pa.array([float("nan"), None, 0.0, 2.5e-08], pa.float64())).to_pylist()
    assert numbers[:2] == [None, None]
    for scale in (8, 10):
        decimals = pa.array([None, Decimal(0), Decimal("-0.0000001")], pa.decimal128(38, scale))
        found = HASHED.hash_column(decimals).to_pylist()
        assert found == [None, numbers[2], *HASHED.hash_column(pa.array(["-0.0000001"])).to_pylist()]


def test_an_instant_has_the_same_hash_in_every_unit_and_time_zone():
    moment = datetime(2013, 4, 1, tzinfo=timezone.utc)
    kinds = [pa.timestamp("us", "UTC"), pa.timestamp("ns", "America/New_York"), pa.timestamp("s", "UTC")]
    arrays = [pa.array([moment], kind) for kind in kinds] + [pa.array([date(2013, 4, 1)])]
    assert len({HASHED.hash_column(array)[0].as_py() for array in arrays}) == 1


def test_another_key_gives_other_hashes_and_another_key_id():
    other = Pseudonymizer(b"another key, as long")
    assert other.hash_column(pa.array([7])) != HASHED.hash_column(pa.array([7]))
    assert other.key_id != HASHED.key_id == Pseudonymizer.from_connection(connection(KEY)).key_id
    assert KEY not in HASHED.key_id


@pytest.mark.parametrize(
    ("password", "reason"), [(None, "no password"), ("tiny", "too short"), ("x" * 15, "too short")]
)
def test_a_missing_or_short_key_is_refused(password, reason):
    with pytest.raises(SpecError, match=reason) as error:
        Pseudonymizer.from_connection(connection(password))
    assert password is None or password not in str(error.value)


def test_a_type_that_cannot_be_hashed_is_refused():
    with pytest.raises(SchemaError, match="list<item: int64>"):
        HASHED.hash_column(pa.array([[1]]))


def test_a_batch_keeps_the_order_of_its_columns_and_a_misspelled_column_is_refused():
    batch = pa.RecordBatch.from_pydict({"a": [1], "b": ["x"], "c": [2.0]})
    kept = Privacy(["a"], ["b"], HASHED).apply(batch)
    assert kept.to_pydict() == {"a": [HASHED.hash_column(pa.array([1]))[0].as_py()], "c": [2.0]}
    with pytest.raises(SchemaError, match="rows' have no column 'B'.* a, b, c"):
        Privacy([], ["B"]).require(batch.schema.names, "rows")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"hash_columns": ["a"]}, "hash_columns.*hash_conn_id"),
        (
            {"hash_columns": ["a"], "drop_columns": ["a"], "hash_conn_id": "k"},
            "`hash_columns` and `drop_columns` both have the column 'a'",
        ),
        ({"drop_columns": ["score"]}, "Scoring adds the column 'score'"),
        ({"hash_columns": "flight", "hash_conn_id": "k"}, "hash_columns: .*list"),
    ],
)
def test_a_contradictory_spec_is_refused(fields, problem):
    with pytest.raises(SpecError, match=problem):
        parse(ScoreSpec, {"model": "m", "dataset": {"name": "d"}, **fields}, "Task 'score'")


def test_a_spec_lists_the_connection_that_holds_the_key():
    spec = ScoreSpec(model="m", dataset={"name": "d"}, hash_columns=["a"], hash_conn_id="keys")
    assert spec.connections() == {"keys", "mlflow_default"}
    assert "keys" not in ScoreSpec(model="m", dataset={"name": "d"}).connections()
