"""Columns hashed with a key: equal values stay equal, and nothing else can be told."""

from __future__ import annotations

import hashlib
import hmac
from datetime import date, datetime, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from airflow_mlops.core.base import parse
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.data.privacy import Privacy, Pseudonyms
from airflow_mlops.stages.score.spec import ScoreSpec

KEY = "0123456789abcdef-a-key"
HASHED = Pseudonyms(KEY.encode())


def connection(password: str | None) -> ConnectionInfo:
    return ConnectionInfo(conn_id="keys", conn_type="generic", password=SecretStr(password) if password else None)


def test_a_hash_is_hmac_sha256_of_the_text_as_any_other_tool_computes_it():
    expected = [hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest() for text in ("é1", "7")]
    assert HASHED.hashed(pa.array(["é1"])).to_pylist() == expected[:1]
    assert HASHED.hashed(pa.array([7, None])).to_pylist() == [expected[1], None]


@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)))
def test_the_width_of_a_type_does_not_matter(values):
    wide = HASHED.hashed(pa.array(values, pa.int64())).to_pylist()
    for kind in (pa.int32(), pa.float64(), pa.decimal128(19, 0)):
        assert HASHED.hashed(pa.array(values, pa.int64()).cast(kind)).to_pylist() == wide
    texts = pa.array([None if value is None else str(value) for value in values], pa.string())
    assert HASHED.hashed(texts).to_pylist() == wide
    assert HASHED.hashed(texts.dictionary_encode()).to_pylist() == wide


@given(st.lists(st.none() | st.text(max_size=4), max_size=30))
def test_hashes_are_equal_where_values_are(values):
    hashes = HASHED.hashed(pa.chunked_array([pa.array(values, pa.string())])).to_pylist()
    assert [value is None for value in values] == [value is None for value in hashes]
    assert len(set(hashes)) == len(set(values))
    assert dict(zip(values, hashes, strict=True)) == {value: hashes[values.index(value)] for value in values}


def test_a_moment_has_one_hash_in_every_unit_and_zone():
    moment = datetime(2013, 4, 1, tzinfo=timezone.utc)
    kinds = [pa.timestamp("us", "UTC"), pa.timestamp("ns", "America/New_York"), pa.timestamp("s", "UTC")]
    arrays = [pa.array([moment], kind) for kind in kinds] + [pa.array([date(2013, 4, 1)])]
    assert len({HASHED.hashed(array)[0].as_py() for array in arrays}) == 1


def test_another_key_gives_other_hashes_and_says_so():
    other = Pseudonyms(b"another key, as long")
    assert other.hashed(pa.array([7])) != HASHED.hashed(pa.array([7]))
    assert other.key_id != HASHED.key_id == Pseudonyms.of(connection(KEY)).key_id
    assert KEY not in HASHED.key_id


@pytest.mark.parametrize(("password", "said"), [(None, "no password"), ("tiny", "too short"), ("x" * 15, "too short")])
def test_without_a_key_nothing_is_hashed(password, said):
    with pytest.raises(SpecError, match=said) as error:
        Pseudonyms.of(connection(password))
    assert password is None or password not in str(error.value)


def test_what_cannot_be_hashed_is_refused():
    with pytest.raises(SchemaError, match="type list<item: int64> cannot be hashed: drop it"):
        HASHED.hashed(pa.array([[1]]))


def test_a_batch_keeps_its_order_and_a_slip_publishes_nothing():
    batch = pa.RecordBatch.from_pydict({"a": [1], "b": ["x"], "c": [2.0]})
    kept = Privacy(["a"], ["b"], HASHED).applied(batch)
    assert kept.to_pydict() == {"a": [HASHED.hashed(pa.array([1]))[0].as_py()], "c": [2.0]}
    with pytest.raises(SchemaError, match="of dataset rows have no column 'B' to hash or to drop: they keep a, b, c"):
        Privacy([], ["B"]).require(batch.schema.names, "rows")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hash_columns": ["a"]}, "hash_columns needs hash_conn_id"),
        ({"hash_columns": ["a"], "drop_columns": ["a"], "hash_conn_id": "k"}, "a cannot be both hashed and dropped"),
        ({"drop_columns": ["score"]}, "score cannot be hashed or dropped"),
        ({"hash_columns": "flight", "hash_conn_id": "k"}, "hash_columns: Input should be a valid list"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(SpecError, match=said):
        parse(ScoreSpec, {"model": "m", "dataset": {"name": "d"}, **fields}, "Task 'score'")


def test_the_connection_with_the_key_is_handed_to_where_the_step_runs():
    spec = ScoreSpec(model="m", dataset={"name": "d"}, hash_columns=["a"], hash_conn_id="keys")
    assert spec.connections() == {"keys", "mlflow_default"}
    assert "keys" not in ScoreSpec(model="m", dataset={"name": "d"}).connections()
