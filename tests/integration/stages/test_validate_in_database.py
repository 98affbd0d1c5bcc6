"""Validation in PostgreSQL, MariaDB and SQLite: the verdicts and failing rows of the dataset path, errors and traces."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SchemaError, SourceError, SpecError, ValidationError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate import checkpoint
from airflow_mlops.stages.validate.spec import ValidateResult, ValidateSpec
from airflow_mlops.stages.validate.step import run
from tests.support.mariadb import mariadb  # noqa: F401 - a fixture
from tests.support.postgres import postgres  # noqa: F401 - a fixture

T0 = datetime(2024, 3, 1, tzinfo=timezone.utc)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()), ("n", pa.int64()), ("m", pa.int64()), ("x", pa.float64()), ("price", pa.decimal128(10, 2)),
        ("s", pa.string()), ("d", pa.date32()), ("at", pa.timestamp("us", "UTC")),
    ]
)  # fmt: skip
TYPES = {
    "postgres": "id bigint, n bigint, m bigint, x float8, price numeric(10, 2), s text, d date, at timestamptz",
    # The collation of a database with the default settings ignores the case of letters.
    "mariadb": "id bigint, n bigint, m bigint, x double, price decimal(10, 2), s varchar(20) COLLATE utf8mb4_bin, d date, at timestamp(6) NULL",
    "sqlite": "id int, n int, m int, x real, price numeric, s text, d date, at timestamp",
}  # fmt: skip


def one(kind: str, **kwargs: object) -> dict[str, object]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


ABOUT_ROWS = [
    one("column_values_to_be_between", column="n", min_value=1, max_value=35),
    one("column_values_to_be_between", column="x", min_value=0.5, strict_min=True),
    one("column_values_to_be_between", column="price", max_value=2.5),
    one("column_values_to_be_between", column="d", min_value="2024-03-02", max_value="2024-03-05"),
    one("column_values_to_be_between", column="at", max_value="2024-03-05"),
    one("column_values_to_be_between", column="at", min_value="2024-03-01T06:00:00+05:00"),
    one("column_values_to_not_be_null", column="s"),
    one("column_values_to_not_be_null", column="x", mostly=0.2),
    one("column_values_to_be_null", column="price"),
    one("column_values_to_be_in_set", column="s", value_set=["a", "B", "10%", "it's"]),
    one("column_values_to_not_be_in_set", column="n", value_set=[2, 3]),
    one("column_values_to_match_regex", column="s", regex="^[a-z0-9]"),
    one("column_values_to_not_match_regex", column="s", regex="[%:]"),
    one("column_value_lengths_to_be_between", column="s", min_value=1, max_value=2),
    one("column_values_to_be_unique", column="n"),
    one("column_values_to_be_unique", column="at"),
    one("compound_columns_to_be_unique", column_list=["n", "m"]),
    one("column_pair_values_a_to_be_greater_than_b", column_A="n", column_B="m", or_equal=True),
    one("column_pair_values_to_be_equal", column_A="n", column_B="m", ignore_row_if="either_value_is_missing"),
    one("column_values_to_be_in_set", column="x", value_set=[0, 0.5, 7.5]),
    one("column_values_to_not_be_in_set", column="price", value_set=[2, 1.1]),
    one("column_values_to_be_in_set", column="n", value_set=[1, 2, 3, 2**53 + 1]),
]  # fmt: skip
# The expectations of ABOUT_ROWS that only some rows fail.
SELECTIVE = [ABOUT_ROWS[number] for number in (0, 2, 3, 10, 12, 15, 16, 17)]
ABOUT_TABLES = [
    one("table_row_count_to_be_between", min_value=1, max_value=50),
    one("column_mean_to_be_between", column="x", min_value=0, max_value=2),
    one("column_sum_to_be_between", column="m", min_value=1, max_value=300),
    one("column_min_to_be_between", column="price", min_value=1),
    one("column_max_to_be_between", column="at", max_value="2024-03-06T12:00:00Z"),
    one("column_min_to_be_between", column="d", min_value="2024-03-01"),
    one("column_unique_value_count_to_be_between", column="s", min_value=3),
    one("column_distinct_values_to_be_in_set", column="n", value_set=[*range(39), 0.5]),
    one("column_to_exist", column="price"),
    one("table_columns_to_match_ordered_list", column_list=SCHEMA.names),
]


def rows(seed: int, count: int = 40) -> list[dict[str, Any]]:
    """Random rows with nulls and repeated values."""
    random_ = random.Random(seed)
    instants = [T0 + timedelta(hours=hours) for hours in range(0, 144, 3)]
    values: dict[str, list[Any]] = {
        "n": [*range(40)],
        "m": [0, 2, 20],
        "x": [0.5, 0.25, 7.5, None],
        "price": [Decimal("1.10"), Decimal("2.50"), Decimal("2.51"), None],
        "s": ["a", "A", "B", "10%", "it's", "x:y", "éé", "", None],
        "d": [T0.date() + timedelta(days=day) for day in range(6)] + [None],
        "at": [*instants, instants[8] + timedelta(microseconds=1), None],
    }
    return [{"id": i, **{name: random_.choice(found) for name, found in values.items()}} for i in range(count)]


def literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        text = value.replace(tzinfo=None).isoformat(" ")
        return f"'{text.removesuffix(' 00:00:00')}'"
    return str(value) if isinstance(value, int | float | Decimal) else "'" + str(value).replace("'", "''") + "'"


class Place:
    """A database with tables of the test."""

    def __init__(self, kind: str, connection: dict[str, Any], execute: Callable[..., object]) -> None:
        self.kind, self.connection, self.execute = kind, connection, execute

    def create(self, name: str, found: list[dict[str, Any]]) -> None:
        values = ", ".join(f"({', '.join(map(literal, row.values()))})" for row in found)
        # The driver of the fixture does not interpret `%`.
        insert = [f"INSERT INTO {name} VALUES {values}"] if found else []
        zone = {"postgres": ["SET TIME ZONE 'UTC'"], "mariadb": ["SET time_zone = '+00:00'"]}.get(self.kind, [])
        self.execute(*zone, f"DROP TABLE IF EXISTS {name}", f"CREATE TABLE {name} ({TYPES[self.kind]})", *insert)


@pytest.fixture(params=["postgres", "mariadb", "sqlite"])
def place(request, tmp_path) -> Place:
    if request.param == "sqlite":
        file = tmp_path / "shop.db"

        def execute(*statements: str) -> None:
            with sqlite3.connect(file) as connection:
                for statement in statements:
                    connection.execute(statement)

        execute()
        return Place("sqlite", {"conn_type": "sqlite", "host": str(file)}, execute)
    server = request.getfixturevalue(request.param)
    return Place(request.param, server.connection(), server.execute)


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return StepContext(ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def validate(context, place, monkeypatch) -> Callable[..., ValidateResult]:
    def validate(*expectations: dict[str, object], connection: dict[str, Any] | None = None, **given: Any):
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({**place.connection, **(connection or {})}))
        source = {} if "dataset" in given else {"conn_id": "shop"}
        content = {"suite": {"name": "checks", "expectations": list(expectations)}, **source, **given}
        return run(parse(ValidateSpec, content, "Task 'validate'"), context)

    return validate


def dataset(context: StepContext, found: list[dict[str, Any]]) -> DatasetRef:
    with DatasetWriter(context.store, "orders") as writer:
        writer.write(pa.Table.from_pylist(found, SCHEMA))
        return writer.commit()[0].ref


def outcomes(result: ValidateResult) -> list[tuple[str, bool, int | None]]:
    return sorted((one.expectation, one.success, one.unexpected) for one in result.outcomes)


def quarantined(context: StepContext, result: ValidateResult) -> list[tuple[int, list[str]]]:
    assert result.quarantined is not None
    found = open_dataset(context.store, result.quarantined).table().to_pylist()
    return sorted((row["id"], sorted(row["failed_expectations"].split("; "))) for row in found)


@pytest.mark.parametrize("seed", [0, 1], ids=["no rows", "rows"])
def test_databases_agree_with_the_dataset_path_on_the_same_rows(context, place, validate, seed):
    found = rows(seed, count=40 if seed else 0)
    place.create("orders", found)
    ref = dataset(context, found)
    on_dataset = validate(*ABOUT_ROWS, *ABOUT_TABLES, dataset=ref, on_failure="warn")
    in_database = validate(*ABOUT_ROWS, *ABOUT_TABLES, table="orders", on_failure="warn")
    assert outcomes(in_database) == outcomes(on_dataset)
    assert in_database.dataset is None
    if seed:
        written = validate(*SELECTIVE, dataset=ref, on_failure="quarantine")
        copied = validate(*SELECTIVE, table="orders", on_failure="quarantine")
        assert quarantined(context, copied) == quarantined(context, written)
        assert 0 < len(quarantined(context, copied)) < len(found)


NULLS = [
    one("column_pair_values_a_to_be_greater_than_b", column_A="n", column_B="m"),
    one("compound_columns_to_be_unique", column_list=["m", "s"]),
    one("multicolumn_sum_to_equal", column_list=["n", "m"], sum_total=3),
]
CONDITION = {"row_condition": 'col("n")<4', "condition_parser": "great_expectations"}


def test_the_quarantine_has_the_rows_that_great_expectations_counts_also_with_nulls_and_conditions(
    context, place, validate
):
    found = [
        {"id": 0, "n": 1, "m": None, "x": 1.5, "price": None, "s": "a", "d": None, "at": None},
        {"id": 1, "n": 2, "m": None, "x": 1.5, "price": None, "s": "a", "d": None, "at": None},
        {"id": 2, "n": 3, "m": 5, "x": 2.5, "price": None, "s": "%x", "d": None, "at": None},
        {"id": 3, "n": 4, "m": 5, "x": 2.5, "price": None, "s": "%x", "d": None, "at": None},
        {"id": 4, "n": 3, "m": 0, "x": 2.5, "price": None, "s": "b", "d": None, "at": None},
        {"id": 5, "n": 2, "m": 1, "x": 9.5, "price": None, "s": "c", "d": None, "at": None},
    ]
    place.create("orders", found)
    repeated = one("column_values_to_be_unique", column="x", **CONDITION)
    result = validate(*NULLS, repeated, table="orders", on_failure="quarantine")
    pairs, keys, sums, values = (
        "expect_column_pair_values_a_to_be_greater_than_b(n, m)", "expect_compound_columns_to_be_unique(['m', 's'])",
        "expect_multicolumn_sum_to_equal(['n', 'm'])", "expect_column_values_to_be_unique(x)",
    )  # fmt: skip
    # A comparison with null is not unexpected in SQL. Keys with null are equal in MySQL only.
    equal = [keys] if place.kind == "mariadb" else []
    assert quarantined(context, result) == [
        (0, sorted([*equal, values])), (1, sorted([*equal, values])), (2, sorted([pairs, keys, sums, values])),
        (3, sorted([pairs, keys, sums])), (4, [values]),
    ]  # fmt: skip
    counts = {one.expectation: one.unexpected for one in result.outcomes}
    assert counts == {pairs: 2, keys: 4 if equal else 2, sums: 2, values: 4}
    assert result.quarantined.name == "orders_quarantine"


def test_a_query_is_validated_as_it_is_written_and_corrected_rows_empty_its_quarantine(
    context, place, validate, monkeypatch
):
    # This would read all rows of the query to find the names of its columns.
    monkeypatch.setattr("great_expectations.expectations.metrics.util.column_reflection_fallback", None)
    place.create("orders", [row | {"s": ":start %" if row["n"] % 2 else "100%"} for row in rows(1, count=120)])
    place.execute("DELETE FROM orders WHERE at IS NULL")
    sql = """WITH found AS (SELECT *, id %% 7 AS rest FROM orders WHERE s <> ':end' AND s LIKE '%%%%' AND s NOT LIKE '%%d%%')
        SELECT * FROM found WHERE at >= :start AND at < :end AND s = '100%%' -- ':foo %s"""
    checks = [
        one("column_values_to_not_be_null", column="at"),
        one("column_values_to_be_in_set", column="rest", value_set=[1, 2, 3]),
    ]
    given = {"sql": sql.replace("%%", "%"), "name": "days", "window": "2024-03-02", "on_failure": "quarantine"}
    result = validate(*checks, **given)
    wanted = [
        row for row in rows(1, count=120)
        if row["at"] is not None and T0 + timedelta(days=1) <= row["at"] < T0 + timedelta(days=2) and row["n"] % 2 == 0
    ]  # fmt: skip
    failing = [row["id"] for row in wanted if row["id"] % 7 not in (1, 2, 3)]
    assert [id_ for id_, _ in quarantined(context, result)] == failing
    assert 0 < len(failing) < len(wanted)
    assert result.quarantined.window.label == "2024-03-02"
    assert validate(checks[0], **given).quarantined.rows == 0


def test_the_error_and_the_data_docs_name_the_failing_rows_and_no_secret(context, place, validate):
    place.create("orders", [row | {"s": "zz"} for row in rows(1, count=30)])
    with pytest.raises(ValidationError, match="expect_column_values_to_be_in_set.s. in 30 rows") as failed:
        validate(one("column_values_to_be_in_set", column="s", value_set=["a"]), table="orders")
    page = context.store.read_bytes(context.store.key_of(str(failed.value).rpartition(" at ")[2].rstrip("."))).decode()
    assert "zz" in page
    assert place.connection.get("password", "geheim") not in page


COUNT = one("table_row_count_to_equal", value=3)
MISTAKES = [
    ({"table": "absent"}, COUNT, SpecError),
    ({"sql": "SELECT absent FROM orders", "name": "orders"}, COUNT, SpecError),
    # MariaDB itself refuses the names.
    ({"sql": "SELECT id, id FROM orders", "name": "orders"}, COUNT, (SchemaError, SpecError)),
    (
        {"sql": "SELECT * FROM orders", "name": "orders"},
        one("column_values_to_be_of_type", column="x", type_="REAL"),
        SpecError,
    ),
    ({"table": "orders"}, one("column_values_to_not_be_null", column="absent"), ValidationError),
    ({"table": "orders"}, one("column_values_to_match_regex", column="s", regex="((("), SpecError),
    ({"table": "orders"}, one("column_values_to_be_between", column="d", min_value=3), SpecError),
]


def test_mistakes_are_final_errors_and_unavailable_databases_are_retried(place, validate):
    place.create("orders", rows(1, count=3))
    for given, check, error in MISTAKES:
        with pytest.raises(error) as raised:
            validate(check, **given)
        assert not raised.value.retryable
    away = {"host": "/absent/shop.db"} if place.kind == "sqlite" else {"port": 1}
    with pytest.raises(SourceError) as raised:
        validate(COUNT, table="orders", connection=away)
    assert raised.value.retryable


MIDNIGHTS = ["2024-03-05", "2024-03-05 00:00", "2024-03-05 00:00:00", "2024-03-05 00:00:00.000000"]
HALVES = ["2024-03-05 06:30:00.5", "2024-03-05 06:30:00.500", "2024-03-05 06:30:00.500000"]


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_times_of_sqlite_are_compared_however_they_are_written_or_refused(place, validate):
    before, after = "2024-03-04 23:59:59.999999", "2024-03-05 12:00"
    values = ", ".join(f"('{text}')" for text in [before, *MIDNIGHTS, *HALVES, after])
    place.execute("CREATE TABLE visits (at TIMESTAMP)", f"INSERT INTO visits VALUES {values}")
    day, half = "2024-03-05", "2024-03-05T06:30:00.5"
    counts = [
        ({"max_value": day}, 4), ({"max_value": day, "strict_max": True}, 8), ({"min_value": day}, 1),
        ({"min_value": day, "strict_min": True}, 5), ({"max_value": half}, 1), ({"max_value": half, "strict_max": True}, 4),
        ({"min_value": half}, 5), ({"min_value": half, "strict_min": True}, 8),
    ]  # fmt: skip
    checks = [one("column_values_to_be_between", column="at", **limit) for limit, _ in counts]
    for source in {"table": "visits"}, {"sql": "SELECT * FROM visits", "name": "visits"}:
        found = [item.unexpected for item in validate(*checks, **source, on_failure="warn").outcomes]
        assert sorted(found) == sorted(number for _, number in counts)
    # Only the first row fails the first expectation, and only the last row fails the second.
    assert validate(checks[2], checks[4], table="visits", on_failure="quarantine").quarantined.rows == 2
    for wrong in "1709618400", "'2024-03-05T06:30:00'", "'2024-03-05 06:30:00Z'", "'2024-03-05 06:30:00.5+01'":
        place.execute(f"UPDATE visits SET at = {wrong} WHERE at IN (SELECT max(at) FROM visits)")
        for check in (
            one("column_values_to_be_between", column="at", max_value="2025-01-01"),
            one("column_max_to_be_between", column="at", max_value="2025-01-01"),
        ):
            with pytest.raises(SchemaError):
                validate(check, table="visits")


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_values_of_sqlite_have_types_also_in_queries(place, validate):
    place.execute(
        "CREATE TABLE loose (n INT, s TEXT, mixed, empty)",
        "INSERT INTO loose VALUES (0, 'abc', 1, NULL), (6, '7', 'x', NULL), (NULL, NULL, NULL, NULL)",
    )
    sources = {"table": "loose"}, {"sql": "SELECT n, s AS S, mixed, empty FROM loose", "name": "loose"}
    good = [
        one("column_values_to_be_in_set", column="n", value_set=[0, 6]),
        one("column_values_to_be_in_set", column="s", value_set=["abc", "7"]),
        one("column_values_to_be_in_set", column="empty", value_set=[1, "a"]),
        one("column_values_to_be_between", column="n", max_value=6),
        one("column_values_to_not_be_null", column="mixed", mostly=0.5),
    ]
    wrong = [
        (one("column_values_to_be_in_set", column="s", value_set=[0]), SpecError),
        (one("column_values_to_be_in_set", column="n", value_set=["0", "6"]), SpecError),
        (one("column_values_to_be_between", column="s", min_value=0), SpecError),
        (one("column_pair_values_to_be_equal", column_A="n", column_B="s"), SpecError),
        (one("column_mean_to_be_between", column="s", min_value=0), SpecError),
        (one("column_values_to_be_in_set", column="mixed", value_set=[1]), SchemaError),
        (one("column_values_to_be_between", column="mixed", min_value=0), SchemaError),
    ]
    for source in sources:
        assert validate(*good, **source).success
        for check, error in wrong:
            with pytest.raises(error) as caught:
                validate(check, **source)
            assert not caught.value.retryable


UNUSUAL = {
    "postgres": "SELECT 1 AS id, interval '1 month' AS a, numeric 'NaN' AS b, date 'infinity' AS c, json '{\"k\": 1}' AS d, "
    "int4range(1, 5) AS e UNION ALL SELECT 2, interval '1 day', 1.5, '2024-01-01', '[1]', 'empty'",
    "mariadb": "SELECT 1 AS id, TIME '10:00:00' AS a, 1.5 AS b UNION ALL SELECT 2, TIME '-838:59:59', 2.5",
}


@pytest.mark.parametrize("place", list(UNUSUAL), indirect=True)
def test_values_of_every_type_can_be_unexpected(context, place, validate):
    columns = "abcde" if place.kind == "postgres" else "ab"
    checks = [one("column_values_to_be_null", column=name) for name in columns]
    given = {"sql": UNUSUAL[place.kind], "name": "unusual"}
    result = validate(*checks, **given, on_failure="warn")
    assert [item.unexpected for item in result.outcomes] == [2] * len(columns)
    page = context.store.read_bytes(context.store.key_of(result.docs_url)).decode()
    assert all(text in page for text in (["1 mon", "infinity", "[1, 5)"] if place.kind == "postgres" else ["10:00:00"]))
    # A decimal equals the number in the suite.
    assert validate(one("column_distinct_values_to_contain_set", column="b", value_set=[1.5]), **given).success
    if place.kind == "postgres":
        with pytest.raises(SchemaError, match="ValidateOperator has no `types`"):
            validate(one("column_values_to_be_in_set", column="id", value_set=[2]), **given, on_failure="quarantine")


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_infinite_dates_are_infinite_with_every_driver(context, place, validate, driver):
    """psycopg2 reads an infinite date as the last day of the year 9999."""
    values = ["infinity", "-infinity", "0044-03-15 BC", "2024-03-05"]
    columns = {"d": "date", "t": "timestamp", "z": "timestamptz"}
    selected = [", ".join(f"{kind} '{value}' AS {name}" for name, kind in columns.items()) for value in values]
    given = {"sql": " UNION ALL ".join(f"SELECT {one}" for one in selected), "name": "unusual"}
    extra = {"extra": {"sqlalchemy_scheme": f"postgresql+{driver}"}}
    checks = [one("column_values_to_be_between", column=name, max_value="9999-12-31") for name in columns]
    result = validate(*checks, **given, connection=extra, on_failure="warn")
    assert [item.unexpected for item in result.outcomes] == [1, 1, 1]
    checks = [one("column_values_to_be_null", column=name) for name in columns]
    result = validate(*checks, **given, connection=extra, on_failure="warn")
    page = context.store.read_bytes(context.store.key_of(result.docs_url)).decode()
    assert all(text in page for text in ("-infinity", "0044-03-15 BC", "2024-03-05"))
    assert "9999-12-31" not in page
    # The largest value is infinite, which Great Expectations cannot compare with a date.
    with pytest.raises(ValidationError, match="infinity"):
        validate(one("column_max_to_be_between", column="d", max_value="9999-12-31"), **given, connection=extra)


def test_large_integers_are_compared_exactly_or_refused(context, place, validate):
    large = 2**53
    values: list[dict[str, Any]] = [
        dict.fromkeys(SCHEMA.names) | {"id": 0, "n": number} for number in (large, large + 1)
    ]
    place.create("orders", values)
    ref = dataset(context, values)
    for source in {"table": "orders"}, {"dataset": ref}:
        for limit, unexpected in ({"max_value": large}, 1), ({"min_value": large}, 0), ({"min_value": large + 2}, 2):
            check = one("column_values_to_be_between", column="n", **limit)
            assert validate(check, **source, on_failure="warn").outcomes[0].unexpected == unexpected
        with pytest.raises(SpecError, match="round"):
            validate(one("column_values_to_be_between", column="n", max_value=large + 1), **source)


@pytest.mark.parametrize(
    "check",
    [
        one("column_values_to_be_in_set", column="s", value_set=["b", 0]),
        one("column_values_to_not_be_in_set", column="n", value_set=["1x"]),
        one("column_pair_values_to_be_in_set", column_A="n", column_B="s", value_pairs_set=[[1, 0]]),
        one("column_pair_values_to_be_equal", column_A="n", column_B="s"),
        one("select_column_values_to_be_unique_within_record", column_list=["d", "S", "x"]),
        one("column_mean_to_be_between", column="s", max_value=1),
        one("column_value_z_scores_to_be_less_than", column="at", threshold=2, double_sided=True),
    ],
    ids=["text", "number", "pair", "columns", "record", "mean", "times"],
)
def test_no_database_converts_text_or_times_to_numbers(place, validate, check):
    place.create("orders", [row | {"s": "a"} for row in rows(1, count=3)])
    with pytest.raises(SpecError, match="the database may convert"):
        validate(check, table="orders")


@pytest.mark.parametrize("source", [{"table": "orders"}, {"sql": "SELECT * FROM orders", "name": "orders"}], ids=str)
def test_names_of_columns_in_another_letter_case_are_refused(place, validate, source):
    place.create("orders", rows(1, count=3))
    for check in (
        one("column_to_exist", column="PRICE"),
        one("table_columns_to_match_set", column_set=["PRICE"], exact_match=False),
        one("table_columns_to_match_ordered_list", column_list=[name.upper() for name in SCHEMA.names]),
    ):
        with pytest.raises(SpecError, match="letter case"):
            validate(check, **source)
    assert not validate(one("column_to_exist", column="absent"), **source, on_failure="warn").success


@pytest.mark.parametrize("place", ["postgres", "mariadb"], indirect=True)
def test_all_expectations_see_the_same_rows_and_cannot_write(place, validate, monkeypatch):
    place.create("orders", rows(1, count=3))
    original = checkpoint.Session.run

    def run_later(self, frame=None):
        place.execute("DELETE FROM orders")
        return original(self, frame)

    monkeypatch.setattr(checkpoint.Session, "run", run_later)
    assert validate(one("table_row_count_to_equal", value=3), table="orders").success
    place.execute("DROP SEQUENCE IF EXISTS numbers", "CREATE SEQUENCE numbers")
    if place.kind == "postgres":
        place.execute("GRANT ALL ON SEQUENCE numbers TO ingest")
    sql = "SELECT nextval('numbers') AS id" if place.kind == "postgres" else "SELECT NEXT VALUE FOR numbers AS id"
    with pytest.raises(SpecError, match="(?i)read.only"):
        validate(one("column_values_to_be_null", column="id"), sql=sql, name="numbers")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dataset": {"name": "orders"}, "conn_id": "shop", "table": "orders"},
        {"conn_id": "shop"},
        {"conn_id": "shop", "table": "orders", "sql": "SELECT 1", "name": "orders"},
        {"dataset": {"name": "orders"}, "table": "orders"},
        {"dataset": {"name": "orders"}, "window": "2024-03"},
        {"conn_id": "shop", "sql": "SELECT 1"},
        {"conn_id": "shop", "sql": "SELECT 1", "name": "a/b"},
        {"conn_id": "shop", "table": "orders", "window": "2024-03"},
        {"conn_id": "shop", "table": "sales."},
        {"conn_id": "shop", "sql": " ", "name": "orders"},
        {"conn_id": "shop", "sql": "SELECT 1", "name": "orders", "window": "2024-03"},
        {"conn_id": "shop", "sql": "SELECT :start", "name": "orders"},
    ],
)
def test_a_source_that_is_not_a_dataset_table_or_query_is_refused(given):
    with pytest.raises(SpecError):
        parse(ValidateSpec, {"suite": "s.json", **given}, "Task 'validate'")


DAG = """
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import ValidateOperator

with DAG("validate_table", schedule=None):
    ValidateOperator(
        task_id="validate", conn_id="shop", sql={sql!r}, name="orders", window="2024-03-02",
        suite={suite!r}, on_failure="quarantine", store={store!r}, cache=True, outlets=[Asset("mlops://orders/checked")],
        params={{"no": 2}},
    )
"""


def test_a_task_validates_a_templated_query_and_names_its_quarantine(context, run_dag, tmp_path):
    def execute(*statements: str) -> None:
        with sqlite3.connect(tmp_path / "shop.db") as connection:
            for statement in statements:
                connection.execute(statement)

    Place("sqlite", {}, execute).create("orders", rows(1, count=120))
    sql = "SELECT * FROM orders WHERE at >= :start AND at < :end AND m <> {{ params.no }}"
    suite = {"name": "checks", "expectations": [one("column_values_to_be_between", column="n", max_value=30)]}
    outcome = run_dag(
        DAG.format(suite=suite, store=context.store.url, sql=sql),
        connections={"shop": json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "shop.db")})},
    )
    assert outcome.states() == {"validate": "success"}
    result = outcome.xcom("validate")
    assert result["dataset"] is None
    assert result["quarantined"]["name"] == "orders_quarantine"
    assert result["usage"]["rows"] > result["quarantined"]["rows"] > 0
    ((_, extra),) = outcome.asset_events()
    assert extra["success"] is False
    assert "dataset" not in extra
