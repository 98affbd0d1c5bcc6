"""Ingestion from SQLite, which has no column types: the types read must not depend on the first values."""

from __future__ import annotations

import json
import math
import sqlite3
import sys

import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import ConnectionNotFoundError, EmptyWindowError, SchemaError, SourceError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run

WINDOW = "SELECT * FROM x WHERE t >= :start AND t < :end"
MANY = 20_000


@pytest.fixture
def database(tmp_path, monkeypatch):
    connection = sqlite3.connect(tmp_path / "my data.db")
    value = {"conn_type": "sqlite", "host": str(tmp_path / "my data.db")}
    monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps(value))
    yield connection
    connection.close()


@pytest.fixture(params=["ADBC", "SQLAlchemy"])
def engine(request, monkeypatch):
    """Both engines; the second one as if the ADBC driver were not installed."""
    if request.param == "SQLAlchemy":
        monkeypatch.setitem(sys.modules, "adbc_driver_sqlite", None)
    return request.param


@pytest.fixture
def context(tmp_path):
    return StepContext(ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def ingest(context, database):
    def ingest(sql, rows=None, **options):
        if rows is not None:
            create, values = rows
            database.execute("DROP TABLE IF EXISTS x")
            database.execute(f"CREATE TABLE x ({create})")
            database.executemany(f"INSERT INTO x VALUES ({', '.join('?' * len(values[0]))})", values)
            database.commit()
        options = {"name": "raw", "conn_id": "db", "sql": sql, **options}
        return run(parse(IngestSpec, options, "Step 'ingest'"), context)

    return ingest


def table(context, result):
    return open_dataset(context.store, result.dataset).table()


def types(context, result):
    return {field.name: str(field.type) for field in table(context, result).schema}


def store_is_empty(context):
    return context.store.fs.find(context.store.root) == []


@pytest.mark.parametrize(
    "stored", ["2013-0{}-01T00:00:00Z", "2013-0{}-01 00:00:00", "2013-0{}-01", "2013-0{}-01T00:00:00.000"]
)
def test_the_window_is_half_open_in_every_text_form_of_time(stored, ingest, context, engine):
    result = ingest(WINDOW, ("t TEXT", [(stored.format(month),) for month in (3, 4, 5)]), window="2013-04")
    assert table(context, result)["t"].to_pylist() == [stored.format(4)]


def test_a_window_within_a_day_compares_with_sqlites_own_text_form(ingest, context, engine):
    rows = [(f"2013-04-01 {hour:02d}:30:00",) for hour in (5, 6, 7)]
    result = ingest(WINDOW, ("t TEXT", rows), window="2013-04-01T06")
    assert table(context, result)["t"].to_pylist() == ["2013-04-01 06:30:00"]
    epoch = "SELECT * FROM x WHERE unixepoch(t) >= unixepoch(:start) AND unixepoch(t) < unixepoch(:end)"
    assert ingest(epoch, window="2013-04-01T06").dataset.rows == 1


def test_the_manifest_describes_the_source_and_the_same_rows_are_unchanged(ingest, context, engine):
    rows = ("t TEXT, n INTEGER", [("2013-04-02", 1)])
    first = ingest(WINDOW + ";  ", rows, window="2013-04")
    again = ingest(WINDOW + ";  ", window="2013-04")
    assert (first.unchanged, again.unchanged, again.dataset) == (False, True, first.dataset)
    source = open_dataset(context.store, first.dataset).manifest.source
    assert source == {"kind": "sql", "conn_id": "db", "conn_type": "sqlite", "sql": WINDOW, "engine": engine}


def test_the_tables_declared_types_apply_even_if_the_first_rows_are_null(ingest, context):
    create = "i INTEGER, r REAL, s TEXT"
    nulls = [(None,) * 3] * MANY
    result = ingest("SELECT * FROM x", (create, [*nulls, (1, 1.5, "x")]))
    assert types(context, result) == {"i": "int64", "r": "double", "s": "string"}
    assert table(context, result).to_pylist()[-1] == {"i": 1, "r": 1.5, "s": "x"}
    only_nulls = ingest("SELECT * FROM x", (create, nulls), name="nulls")
    assert types(context, only_nulls) == types(context, result)


def test_the_order_of_the_query_is_kept(ingest, context, engine):
    rows = [(n * 7919 % MANY, f"{n % 10}") for n in range(MANY)]
    result = ingest("SELECT n, s FROM x ORDER BY s DESC, n", ("n INTEGER, s TEXT", rows))
    found = table(context, result).to_pydict()
    assert list(zip(found["n"], found["s"], strict=True)) == sorted(rows, key=lambda row: (-int(row[1]), row[0]))
    limited = ingest("SELECT n FROM x ORDER BY n DESC LIMIT 3", name="limited")
    assert table(context, limited)["n"].to_pylist() == [MANY - 1, MANY - 2, MANY - 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1] * MANY + [1.5], "'u' is int64 .* DOUBLE value"),
        ([1] * MANY + ["x"], "'u' is int64 .* STRING/BINARY value"),
        ([None] * MANY + ["x"], "'u' is int64 .* STRING/BINARY value"),
        ([1.5] * MANY + ["x"], "'u' is double .* STRING/BINARY value"),
    ],
)
def test_an_undeclared_column_whose_type_changes_is_named_and_can_be_declared(values, message, ingest, context):
    with pytest.raises(SchemaError, match=message + r".*types=\{'u': "):
        ingest("SELECT u FROM x", ("u", [(value,) for value in values]))
    assert store_is_empty(context)
    kind = "float64" if values[-1] == 1.5 else "string"
    result = ingest("SELECT u FROM x", types={"u": kind})
    assert table(context, result)["u"][-1].as_py() == values[-1]


def test_without_adbc_a_column_whose_type_changes_is_named_too(ingest, context, monkeypatch):
    monkeypatch.setitem(sys.modules, "adbc_driver_sqlite", None)
    values = [(1,)] * 20_000 + [("x",)]
    with pytest.raises(SchemaError, match="'u' contains values of several types: int .1. and str .'x'"):
        ingest("SELECT u FROM x", ("u", values))
    result = ingest("SELECT u FROM x", ("u", [(None,)] * 20_000 + [("x",)]), types={"u": "string"})
    assert table(context, result)["u"][-1].as_py() == "x"


def test_bytes_are_ingested_unchanged(ingest, context, engine):
    result = ingest("SELECT * FROM x", ("b BLOB", [(b"\xff\x00",), (None,)]))
    assert table(context, result)["b"].to_pylist() == [b"\xff\x00", None]


@pytest.mark.parametrize("value", [1.5, "x"])
def test_a_value_that_contradicts_the_tables_declaration_is_named(value, ingest, context):
    for rows in ([(value,), (1,)], [(1,)] * MANY + [(value,)]):
        with pytest.raises(SchemaError, match="'i' is int64 "):
            ingest("SELECT * FROM x", ("i INTEGER", rows))


def test_values_are_converted_to_declared_types(ingest, context, engine):
    rows = ("flag BOOLEAN, at TIMESTAMP, price NUMERIC", [(None, None, None), (1, "2013-04-01 10:00:00", 2)])
    declared = {"flag": "bool", "at": "timestamp[us]", "price": "float64"}
    result = ingest("SELECT * FROM x", rows, types=declared)
    assert types(context, result) == {"flag": "bool", "at": "timestamp[us]", "price": "double"}
    assert table(context, result)["flag"].to_pylist() == [None, True]
    with pytest.raises(SchemaError, match="'at' is declared bool "):
        ingest("SELECT * FROM x", types={"at": "bool"})


def test_infinities_are_ingested_unchanged(ingest, context, engine):
    result = ingest("SELECT * FROM x", ("r REAL", [(math.inf,), (-math.inf,), (1.5,)]))
    assert table(context, result)["r"].to_pylist() == [math.inf, -math.inf, 1.5]


def test_guessed_types_follow_the_other_window(ingest, context):
    rows = [("2013-03-01", 1.5), ("2013-04-01", 2), ("2013-05-01", "x")]
    created = ("t TEXT, u", rows)
    ingest(WINDOW, created, window="2013-03")
    assert table(context, ingest(WINDOW, window="2013-04"))["u"].to_pylist() == [2.0]
    with pytest.raises(SchemaError, match="'u' is string, .* double"):
        ingest(WINDOW, window="2013-05")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sql": "SELECT nope FROM x"}, SpecError, "'db' .*no such column: nope"),
        ({"sql": "SELEC"}, SpecError, "'db' .*syntax error"),
        ({"sql": "DELETE FROM x"}, SpecError, "'db' "),
        ({"sql": "SELECT t, t FROM x"}, SchemaError, "the column 't' more than once"),
        ({"sql": "SELECT t FROM x", "columns": ["z"]}, SchemaError, "no column 'z'.* t"),
        ({"sql": WINDOW, "window": "2020"}, EmptyWindowError, "'db'.*2020"),
        ({"sql": "SELECT * FROM x", "window": "2020"}, SpecError, ":start and :end"),
        ({"sql": WINDOW}, SpecError, "`window`"),
        ({"sql": "SELECT 1", "conn_id": None}, SpecError, "`conn_id`"),
        ({"sql": "SELECT 1", "conn_id": "nowhere"}, ConnectionNotFoundError, "'nowhere'"),
        ({"sql": "SELECT 1", "time_column": "t"}, SpecError, "`time_column`"),
    ],
)
def test_mistakes_are_named_and_change_nothing(options, error, message, ingest, context, database):
    with pytest.raises(error, match=message):
        ingest(**options, rows=("t TEXT", [("2013-04-01",)]))
    assert store_is_empty(context)
    assert database.execute("SELECT count(*) FROM x").fetchone() == (1,)


def test_a_missing_database_file_is_named_and_not_created(ingest, tmp_path, monkeypatch, engine):
    monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "none.db")}))
    with pytest.raises(SourceError, match=r"none\.db"):
        ingest("SELECT 1")
    assert not (tmp_path / "none.db").exists()


def test_a_file_that_is_not_a_database_is_refused(ingest, tmp_path, monkeypatch, engine):
    (tmp_path / "text.db").write_text("this is not a database, but it is longer than one page header" * 100)
    monkeypatch.setenv("AIRFLOW_CONN_DB", f"sqlite://{tmp_path}/text.db")
    with pytest.raises((SourceError, SpecError), match="file is not a database"):
        ingest("SELECT * FROM sqlite_master")


def test_a_database_without_an_installed_driver_is_named_without_its_password(ingest, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_DB", "oracle://scott:geheim@127.0.0.1:1/x")
    with pytest.raises(SpecError, match="'db' .*oracle") as raised:
        ingest("SELECT 1")
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize("conn_type", ["generic", ""])
def test_a_connection_without_a_database_type_says_how_to_add_it(conn_type, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": conn_type, "host": str(tmp_path / "shop.db")}))
    spec = IngestSpec(name="rows", conn_id="shop", sql="SELECT 1")
    with pytest.raises(SpecError, match="Connection 'shop' .*names no database") as failed:
        run(spec, StepContext(store=ArtifactStore(f"file://{tmp_path}/store")))
    assert "apache-airflow-providers-sqlite" in str(failed.value)
    assert "airflow connections add shop --conn-json" in str(failed.value)


def test_a_generic_connection_may_name_its_dialect(monkeypatch, tmp_path):
    extra = {"sqlalchemy_scheme": "sqlite"}
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "generic", "schema": "", "extra": extra}))
    result = run(
        IngestSpec(name="rows", conn_id="shop", sql="SELECT 1 AS n"),
        StepContext(store=ArtifactStore(f"file://{tmp_path}/store")),
    )
    assert result.dataset.rows == 1
