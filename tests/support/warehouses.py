"""Stand-ins for warehouses that need an account.

- Snowflake: the package ``fakesnow``, a server with Snowflake's protocol on DuckDB. The connector and Feast are real.
- Redshift: a fake of the Data API that runs the statements on PostgreSQL. S3 is moto's server. Feast and boto3's client
  of S3 are real.
- BigQuery: a fake of the client that runs the SQL on DuckDB, translated by ``sqlglot``. Feast is real.

The stand-ins show that the statements, the files and Feast's SQL together give the right rows. They do not show that the
real services accept these statements.
"""

from __future__ import annotations

import io
import re
import threading
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from types import SimpleNamespace
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

UTC = pa.timestamp("us", "UTC")


# fakesnow does not translate the condition of Snowflake's ASOF JOIN into DuckDB's.
_ASOF = re.compile(r"MATCH_CONDITION \((?P<condition>[^)]*)\)\s*(USING\((?P<keys>[^)]*)\))?")


def _with_condition(found):
    keys = [key.strip() for key in (found["keys"] or "").split(",") if key.strip()]
    return "ON " + " AND ".join([found["condition"], *(f"e.{key} = v.{key}" for key in keys)])


class FakeSnowflake:
    """A server of ``fakesnow``. Statements that it does not know do nothing: ``ALTER SESSION`` and ``DROP STAGE``."""

    kind = "snowflake"
    types = {"text": "VARCHAR", "time": "TIMESTAMP_TZ", "naive": "TIMESTAMP_NTZ", "number": "NUMBER(38, 0)",
             "float": "FLOAT", "date": "DATE"}  # fmt: skip

    @classmethod
    @contextmanager
    def started(cls):
        import fakesnow
        import fakesnow.arrow
        import fakesnow.cursor

        parameters = {"nop_regexes": ["ALTER SESSION", "DROP STAGE"]}
        with fakesnow.server(session_parameters=parameters) as options:
            import snowflake.connector
            from feast.infra.utils.snowflake import snowflake_utils

            made = cls()
            made.options = options
            made.connection = snowflake.connector.connect(**options, database="FEATURES", schema="PUBLIC")
            snowflake_utils._cache.clear()
            made.statements = []
            own = fakesnow.cursor.FakeSnowflakeCursor._inline_variables
            times = fakesnow.arrow.timestamp_to_sf_struct

            def with_nulls(values):
                """Return null for a time that is null, for which fakesnow returns the year 1970."""
                found = times(values)
                parts = [found.field(number) for number in range(found.type.num_fields)]
                nulls = pa.chunked_array([values] if isinstance(values, pa.Array) else values.chunks).is_null()
                return pa.StructArray.from_arrays(parts, fields=list(found.type), mask=nulls.combine_chunks())

            def inline(cursor, sql):
                made.statements.append(sql)
                return own(cursor, _ASOF.sub(_with_condition, sql))

            fakesnow.cursor.FakeSnowflakeCursor._inline_variables = inline
            fakesnow.arrow.timestamp_to_sf_struct = with_nulls
            try:
                yield made
            finally:
                fakesnow.cursor.FakeSnowflakeCursor._inline_variables = own
                fakesnow.arrow.timestamp_to_sf_struct = times
                snowflake_utils._cache.clear()

    @property
    def offline_store(self):
        return {**self.options, "type": "snowflake.offline", "database": "FEATURES", "schema": "PUBLIC"}

    def source(self, name):
        return f'SnowflakeSource(name="{name}", table="{name}", timestamp_field="at"'

    imports = "from feast.infra.offline_stores.snowflake_source import SnowflakeSource"

    def execute(self, sql):
        return self.connection.cursor().execute(sql).fetchall()

    def create(self, name, columns):
        made = ", ".join(f'"{n}" {self.types[t]}' for n, t in columns.items())
        self.execute(f'CREATE OR REPLACE TABLE "{name}" ({made})')

    def fill(self, name, rows):
        self.execute(f'DELETE FROM "{name}"')
        if rows:
            self.execute(f'INSERT INTO "{name}" VALUES ' + ", ".join(_values(row) for row in rows))

    def leftovers(self):
        from feast.infra.utils.snowflake import snowflake_utils

        cursor = snowflake_utils._cache["snowflake.offline"].cursor()
        tables = cursor.execute("SHOW TABLES").fetchall()
        return [row for row in tables if "mlops" in str(row) or "feast" in str(row)]


def _values(row):
    return "(" + ", ".join(_literal(value) for value in row) + ")"


def _literal(value):
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str | date) else str(value)


class FakeRedshift:
    """Redshift's Data API: statements run in PostgreSQL. ``COPY`` and ``UNLOAD`` read and write Parquet files in S3.

    :param admin: URL of PostgreSQL
    :param s3: boto3's resource of S3
    :param url: URL of the staging location
    """

    kind = "redshift"
    types = {"text": "text", "time": "timestamptz", "naive": "timestamp", "number": "bigint",
             "float": "double precision", "date": "date"}  # fmt: skip
    imports = "from feast import RedshiftSource"

    def __init__(self, admin, s3, url):
        self.admin, self.s3, self.url = admin, s3, url
        self.batches, self.runs, self.copied = [], {}, []

    @property
    def offline_store(self):
        return {"type": "redshift", "cluster_id": "cluster", "user": "feast", "region": "eu-central-1", "database": "db",
                "s3_staging_location": self.url, "iam_role": "arn:aws:iam::1:role/feast"}  # fmt: skip

    def source(self, name):
        return f'RedshiftSource(name="{name}", table="{name}", schema="warehouse", timestamp_field="at"'

    def _connect(self):
        import psycopg2

        return psycopg2.connect(self.admin)

    def create(self, name, columns):
        with self._connect() as connection, connection.cursor() as cursor:
            made = ", ".join(f'"{n}" {self.types[t]}' for n, t in columns.items())
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS warehouse; DROP TABLE IF EXISTS warehouse.{name}")
            cursor.execute(f"CREATE TABLE warehouse.{name} ({made})")

    def fill(self, name, rows):
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET TIME ZONE 'UTC'; TRUNCATE warehouse.{name}")
            for row in rows:
                cursor.execute(f"INSERT INTO warehouse.{name} VALUES ({', '.join(['%s'] * len(row))})", row)

    def leftovers(self):
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT relname FROM pg_class WHERE relname ~ 'mlops|feast' AND relkind = 'r'")
            tables = cursor.fetchall()
        return [*tables, *(item.key for item in self.s3.Bucket(bucket).objects.filter(Prefix=prefix))]

    def sleeps(self):
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            return cursor.fetchone()[0]

    # Redshift's Data API

    def execute_statement(self, **sent):
        assert set(sent) == {"Database", "Sql", "ClusterIdentifier", "DbUser"}
        statements = sent["Sql"].split(";\n")
        self.batches.append(statements)
        run, connection = uuid4().hex, self._connect()
        found = self.runs[run] = {"Status": "STARTED", "pid": connection.get_backend_pid()}

        def work():
            try:
                with connection, connection.cursor() as cursor:
                    for sql in statements:
                        self._execute(cursor, sql)
                found["Status"] = "FINISHED"
            except Exception as error:  # noqa: BLE001 - as the service does
                found.update(Status="FAILED", Error=f"ERROR: {error}")
            finally:
                connection.close()

        threading.Thread(target=work, daemon=True).start()
        return {"Id": run}

    def describe_statement(self, **sent):
        return dict(self.runs[sent["Id"]])

    def cancel_statement(self, **sent):
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_cancel_backend(%s)", [self.runs[sent["Id"]]["pid"]])
            return {"Status": cursor.fetchone()[0]}

    def _execute(self, cursor, sql):
        if copy := re.fullmatch(r"COPY (\w+) FROM '(s3://[^']+)' IAM_ROLE '[^']+' FORMAT AS PARQUET", sql):
            self._copy(cursor, copy[1], copy[2])
        elif unload := re.fullmatch(
            r"UNLOAD \('(.*)'\) TO '(s3://[^']+)' IAM_ROLE '[^']+' FORMAT AS PARQUET MAXFILESIZE 128 MB", sql
        ):
            self._unload(cursor, unload[1].replace("''", "'"), unload[2])
        else:
            # PostgreSQL before 16 needs these aliases.
            cursor.execute(
                re.sub(
                    r"\)(?=\s*(WHERE row_number = 1|USING \(mlops__entity_row_unique_id\)\n))", ") AS mlops_part", sql
                )
            )

    def _copy(self, cursor, table, url):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        for item in self.s3.Bucket(bucket).objects.filter(Prefix=prefix):
            rows = pq.read_table(io.BytesIO(item.get()["Body"].read()))
            self.copied.append(rows)
            for row in rows.to_pylist():
                cursor.execute(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", list(row.values()))

    def _unload(self, cursor, sql, url):
        kinds = {
            20: pa.int64(),
            16: pa.bool_(),
            701: pa.float64(),
            1184: UTC,
            1114: pa.timestamp("us"),
            1082: pa.date32(),
        }
        cursor.execute(sql)
        columns = zip(*cursor.fetchall(), strict=True)
        names = [column.name for column in cursor.description]
        arrays = [
            pa.array(values, kinds.get(column.type_code, pa.string()))
            for values, column in zip(columns, cursor.description, strict=True)
        ]
        table = pa.table(arrays, names=names)
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        for number, start in enumerate(range(0, len(table), max(1, len(table) // 2))):
            body = io.BytesIO()
            pq.write_table(table.slice(start, max(1, len(table) // 2)), body)
            self.s3.Bucket(bucket).put_object(Key=f"{prefix}{number:04}_part_00.parquet", Body=body.getvalue())


class FakeBigQuery:
    """BigQuery's client, on DuckDB."""

    kind = "bigquery"
    types = {"text": "VARCHAR", "time": "TIMESTAMPTZ", "naive": "TIMESTAMP", "number": "BIGINT", "float": "DOUBLE",
             "date": "DATE"}  # fmt: skip
    imports = "from feast import BigQuerySource"
    project = "project"

    def __init__(self):
        import duckdb

        self.database = duckdb.connect()
        self.database.execute("ATTACH ':memory:' AS project; CREATE SCHEMA project.features; SET TimeZone = 'UTC'")
        self.tables, self.loads, self.cancelled = {}, [], threading.Event()

    offline_store = {"type": "bigquery", "dataset": "features", "project_id": "project"}

    def source(self, name):
        return f'BigQuerySource(name="{name}", table="project.features.{name}", timestamp_field="at"'

    def create(self, name, columns):
        made = ", ".join(f'"{n}" {self.types[t]}' for n, t in columns.items())
        self.database.execute(f"CREATE OR REPLACE TABLE project.features.{name} ({made})")

    def fill(self, name, rows):
        self.database.execute(f"DELETE FROM project.features.{name}")
        for row in rows:
            self.database.execute(
                f"INSERT INTO project.features.{name} VALUES ({', '.join('?' * len(row))})", list(row)
            )

    def leftovers(self):
        return list(self.tables)

    # google.cloud.bigquery.Client

    def get_dataset(self, reference):
        return reference

    def create_table(self, table):
        assert timedelta(hours=20) < table.expires - datetime.now(timezone.utc) < timedelta(hours=30)
        kinds = {"INT64": "BIGINT", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ", "NUMERIC": "DECIMAL(38, 9)"}
        columns = ", ".join(f"{f.name} {kinds.get(f.field_type, f.field_type)}" for f in table.schema)
        self.database.execute(f"CREATE TABLE {table.reference} ({columns})")
        self.tables[str(table.reference)] = table

    def load_table_from_file(self, file, name, job_config):
        table = pq.read_table(file)
        self.loads.append((table, job_config))
        assert [field.name for field in job_config.schema] == table.column_names
        self.database.register("loaded", table)
        self.database.execute(f"INSERT INTO {name} SELECT * FROM loaded")
        return SimpleNamespace(result=lambda: None)

    def delete_table(self, name, not_found_ok):
        assert not_found_ok
        if self.tables.pop(name, None):
            self.database.execute(f"DROP TABLE {name}")

    def query(self, sql):
        return _Job(self, sql)

    def _ensure_bqstorage_client(self):
        return None


class _Job:
    def __init__(self, client, sql):
        self.client, self.sql = client, sql

    def result(self):
        import duckdb
        import sqlglot
        from google.api_core.exceptions import BadRequest

        cursor = self.client.database.cursor()
        cursor.execute("SET TimeZone = 'UTC'")
        for statement in sqlglot.transpile(self.sql, read="bigquery", write="duckdb"):
            if statement:
                try:
                    cursor.execute(statement)
                except duckdb.Error as error:
                    raise BadRequest(str(error)) from error
        table = cursor.to_arrow_table()
        return SimpleNamespace(to_arrow_iterable=lambda bqstorage_client: iter(table.to_batches(max_chunksize=7)))

    def cancel(self):
        self.client.cancelled.set()
        return True
