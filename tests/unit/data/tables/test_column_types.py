"""The rule from column types of datasets to column types of databases, and the parameter that names a table."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.tables.database import open_table
from airflow_mlops.data.tables.database.column_types import DATABASES, fits, new_type, writable, writable_type
from airflow_mlops.stages.score.spec import ScoreSpec

digits = st.integers(1, 38).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, min(p, 30))))


@given(own=digits, other=digits)
def test_a_decimal_column_fits_if_it_holds_the_largest_and_the_finest_number(own, other):
    (precision, scale), (other_precision, other_scale) = own, other
    largest = Decimal((0, (9,) * precision, -scale))
    holds = Decimal((0, (9,) * other_precision, -other_scale))
    expected = other_scale >= scale and (other_precision - other_scale >= precision - scale)
    assert fits(pa.decimal128(*own), f"DECIMAL({other_precision},{other_scale})", "mysql") is expected
    assert not expected or holds >= largest


@pytest.mark.parametrize("database", DATABASES)
def test_new_columns_fit_and_numbers_without_a_type_become_exact_ones(database):
    kinds = [pa.bool_(), pa.int64(), pa.uint64(), pa.float64(), pa.decimal128(38, 30), pa.string(), pa.binary()]
    for kind in [*kinds, pa.date32(), pa.timestamp("us", "UTC")]:
        written = writable_type(kind, database)
        assert fits(written, new_type(written, database), database), kind
    assert writable(pa.array([2**64 - 1, None], pa.uint64()), database).to_pylist() == [
        "18446744073709551615" if database == "sqlite" else Decimal(2**64 - 1), None,
    ]  # fmt: skip
    for kind in (pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.null(), pa.decimal128(5, -2)):
        assert new_type(kind, database) is None


@pytest.mark.parametrize(
    ("kind", "found", "database"),
    [
        (pa.int64(), "integer", "postgresql"), (pa.float64(), "real", "postgresql"), (pa.float64(), "numeric(10,2)", "postgresql"),
        (pa.timestamp("us", "UTC"), "timestamp without time zone", "postgresql"), (pa.string(), "character(5)", "postgresql"),
        (pa.int64(), "bigint(20) unsigned", "mysql"), (pa.timestamp("us", "UTC"), "datetime", "mysql"),
        (pa.float64(), "float", "mysql"), (pa.string(), "enum('a','b')", "mysql"), (pa.string(), "BIGINT", "sqlite"),
    ],
)  # fmt: skip
def test_columns_that_would_change_a_value_do_not_fit(kind, found, database):
    assert not fits(kind, found, database)


def test_a_spec_names_the_connection_and_a_table_with_at_most_a_schema():
    fields = {"model": "m", "dataset": {"name": "rows"}}
    spec = parse(ScoreSpec, {**fields, "write_to": {"conn_id": "bi", "table": "sales.my table"}}, "Task 'score'")
    assert "bi" in spec.connections()
    for wrong in ("", "a.b.c", ".a", "a\0"):
        with pytest.raises(SpecError, match="Task 'score' .*write_to.table"):
            parse(ScoreSpec, {**fields, "write_to": {"conn_id": "bi", "table": wrong}}, "Task 'score'")


def test_a_spec_names_a_delta_table_and_only_for_s3_a_connection():
    fields = {"model": "m", "dataset": {"name": "rows"}}

    def target(**write_to):
        return parse(ScoreSpec, {**fields, "write_to": write_to}, "Task 'score'")

    assert target(delta="s3://lake/predictions", conn_id="lake").connections() == {"lake", "mlflow_default"}
    assert target(delta="/data/my predictions").connections() == {"mlflow_default"}
    for wrong in (
        {"delta": "predictions"}, {"delta": "gs://lake/predictions"}, {"delta": "/data/a%41"}, {"delta": "/x", "table": "y"},
        {"delta": "s3://key:geheim-4711@lake/predictions"}, {"delta": "/data/predictions", "conn_id": "lake"},
    ):  # fmt: skip
        with pytest.raises(SpecError, match="Task 'score' .*write_to.delta") as caught:
            target(**wrong)
        assert "geheim" not in str(caught.value)
    assert target(iceberg="a.b.predictions", conn_id="lake").connections() == {"lake", "mlflow_default"}
    for wrong in (
        {"iceberg": "predictions", "conn_id": "lake"},
        {"iceberg": "a.b"},
        {"iceberg": "a..b", "conn_id": "x"},
    ):
        with pytest.raises(SpecError, match="Task 'score' .*write_to.iceberg"):
            target(**wrong)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41b", "a b"])
def test_an_sqlite_file_may_have_any_path(name, tmp_path):
    path = tmp_path / name / "x.db"
    path.parent.mkdir()
    path.touch()
    info = ConnectionInfo.of("shop", conn_type="sqlite", host=str(path))
    rows = pa.record_batch({"k": [1, 1]})
    assert open_table(info, "scores").replace(rows.schema, {"k": 1}, [rows]) == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT k FROM scores").fetchall() == [(1,), (1,)]
    assert [item.name for item in tmp_path.iterdir()] == [name]
