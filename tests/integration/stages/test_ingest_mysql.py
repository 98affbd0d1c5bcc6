"""Ingestion from a real MariaDB server, as a database of type MySQL: types, windows and mistakes."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from decimal import Decimal

import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SchemaError, SourceError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run
from tests.support.mariadb import PASSWORD, mariadb  # noqa: F401 - a fixture


@pytest.fixture
def context(tmp_path):
    return StepContext(ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def ingest(mariadb, context, monkeypatch):  # noqa: F811
    def ingest(sql, connection=None, **options):
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(mariadb.connection(**connection or {})))
        spec = parse(IngestSpec, {"name": "raw", "conn_id": "shop", "sql": sql, **options}, "Step 'ingest'")
        return run(spec, context)

    return ingest


def table(context, result):
    return open_dataset(context.store, result.dataset).table()


def test_values_of_all_types_are_ingested_unchanged(mariadb, ingest, context):  # noqa: F811
    mariadb.execute(
        "DROP TABLE IF EXISTS kinds",
        """CREATE TABLE kinds (id BIGINT UNSIGNED, n INT, flag BOOLEAN, price DECIMAL(10, 2), x DOUBLE, s VARCHAR(9),
        d DATE, dt DATETIME(6), duration TIME, y YEAR, b BLOB, j JSON, e ENUM('a', 'b'))""",
        """INSERT INTO kinds VALUES (18446744073709551615, 1, true, 12.30, 1.5, 'ü', '9999-12-31',
        '2024-03-05 06:30:00.000001', '-10:30:00', 2024, x'00ff', '{"a": 1.10}', 'b'), (7, NULL, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL)""",
    )
    found = table(context, ingest("SELECT * FROM kinds ORDER BY n DESC"))
    assert found.slice(0, 1).to_pylist() == [
        {
            "id": 18446744073709551615, "n": 1, "flag": 1, "price": Decimal("12.30"), "x": 1.5, "s": "ü",
            "d": date(9999, 12, 31), "dt": datetime(2024, 3, 5, 6, 30, 0, 1, timezone.utc), "duration": -37800.0,
            "y": 2024, "b": b"\x00\xff", "j": '{"a": 1.10}', "e": "b",
        }
    ]  # fmt: skip
    assert set(found.slice(1).to_pylist()[0].values()) == {7, None}
    assert str(found.schema.field("price").type) == "decimal128(38, 2)"


def test_sums_and_means_are_exact(ingest, context):
    result = ingest("SELECT SUM(seq) AS total, AVG(seq) AS mean, SUM(seq) * 10000000000 AS big FROM seq_1_to_10")
    assert table(context, result).to_pylist() == [
        {"total": Decimal(55), "mean": Decimal("5.5000"), "big": Decimal(550000000000)}
    ]


def test_the_type_of_a_column_follows_from_all_values(ingest, context):
    result = ingest("SELECT seq, IF(seq > 20000, 0.125, NULL) AS late FROM seq_1_to_30000")
    assert table(context, result)["late"].null_count == 20_000
    assert table(context, result)["late"][-1].as_py() == Decimal("0.125")


def test_windows_and_timestamps_are_in_utc_in_whatever_zone_the_server_is(mariadb, ingest, context):  # noqa: F811
    assert mariadb.execute("SELECT @@global.time_zone") == (("+05:00",),) or mariadb.execute("SELECT 1")
    mariadb.execute(
        "DROP TABLE IF EXISTS times",
        "CREATE TABLE times (ts TIMESTAMP, dt DATETIME)",
        "SET time_zone = '+00:00'",
        "INSERT INTO times VALUES ('2024-03-31 23:59:59', '2024-03-31 23:59:59'), ('2024-04-01', '2024-04-01')",
    )
    for column in ("ts", "dt"):
        sql = f"SELECT ts, dt FROM times WHERE {column} >= :start AND {column} < :end"
        april = datetime(2024, 4, 1, tzinfo=timezone.utc)
        assert table(context, ingest(sql, window="2024-04")).to_pylist() == [{"ts": april, "dt": april}]


def test_the_error_names_an_invalid_date(mariadb, ingest, context):  # noqa: F811
    mariadb.execute(
        "DROP TABLE IF EXISTS zero", "CREATE TABLE zero (d DATE)", "SET sql_mode = ''",
        "INSERT INTO zero VALUES ('2024-03-05'), ('0000-00-00')",
    )  # fmt: skip
    with pytest.raises(SchemaError, match="'d' .*'0000-00-00'"):
        ingest("SELECT * FROM zero")
    assert table(context, ingest("SELECT NULLIF(d, '0000-00-00') AS d FROM zero"))["d"].null_count == 1


@pytest.mark.parametrize("sql", ["SELECT nope FROM seq_1_to_3", "SELECT * FROM nope", "SELEC"])
def test_an_invalid_query_is_a_final_error(sql, ingest, context):
    with pytest.raises(SpecError, match="'shop' rejected the query") as raised:
        ingest(sql)
    assert not raised.value.retryable
    assert context.store.fs.find(context.store.root) == []


def test_an_unreachable_database_is_named_without_the_password(ingest):
    for connection in ({"password": "geheim%1"}, {"port": 1}):
        with pytest.raises(SourceError, match=r"'shop' \(mysql\)") as raised:
            ingest("SELECT 1", connection)
        assert raised.value.retryable
        assert "geheim" not in str(raised.value)
        assert PASSWORD not in str(raised.value)


def test_a_missing_driver_is_named(ingest):
    with pytest.raises(SpecError, match=r"mysql\+pymysql"):
        ingest("SELECT 1", {"extra": {"sqlalchemy_scheme": "mysql+nodriver"}})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 18446744073709551615 + seq AS a FROM seq_1_to_3",
        # Fails after 60,000 rows were sent.
        "SELECT 18446744073709491615 + seq AS a FROM seq_1_to_100000",
        "SELECT (SELECT seq FROM seq_1_to_3) AS a",
        "SELECT nope() AS a",
    ],
)
def test_a_query_that_fails_on_its_data_is_not_retried(sql, ingest, context):
    with pytest.raises(SpecError, match="'shop' rejected the query: .*Correct `sql`, or the data") as raised:
        ingest(sql)
    assert not raised.value.retryable
    assert context.store.fs.find(context.store.root) == []


def test_a_query_that_writes_is_refused_and_writes_nothing(mariadb, ingest, context):  # noqa: F811
    mariadb.execute(
        "CREATE TABLE IF NOT EXISTS readers (n INT) ENGINE=MyISAM",
        "TRUNCATE readers",
        """CREATE OR REPLACE FUNCTION counted_read() RETURNS INT DETERMINISTIC MODIFIES SQL DATA
        BEGIN INSERT INTO readers VALUES (1); RETURN 1; END""",
    )
    with pytest.raises(SpecError, match="READ ONLY transaction") as raised:
        ingest("SELECT counted_read() AS n")
    assert not raised.value.retryable
    assert context.store.fs.find(context.store.root) == []
    assert table(context, ingest("SELECT count(*) AS n FROM readers"))["n"].to_pylist() == [0]


def test_a_query_that_takes_too_long_is_retried(ingest):
    slow = "SELECT count(*) AS a FROM seq_1_to_100000 x, seq_1_to_100000 y, seq_1_to_100000 z"
    with pytest.raises(SourceError, match="max_statement_time") as raised:
        ingest(f"SET STATEMENT max_statement_time=0.3 FOR {slow}")
    assert raised.value.retryable
