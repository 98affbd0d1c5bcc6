"""Join in Redshift. The events and the result are Parquet files in S3.

All statements run in one request of Redshift's Data API, and therefore in one session. Redshift drops their temporary
tables at the end of the session, even if the task was killed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.feast.warehouse import staging
from airflow_mlops.data.feast.warehouse.base import Events, Warehouse, failure
from airflow_mlops.data.feast.warehouse.query import join_sql, keys_have_one_text, query_view, without_json
from airflow_mlops.data.feast.warehouse.upload import parquet_files
from airflow_mlops.data.feast.warehouse.view import SqlView

log = logging.getLogger("airflow_mlops.data")

_EVENTS, _JOINED = "mlops_events", "mlops_joined"
# The length of Redshift's VARCHAR, to which Feast's SQL casts join keys.
_KEY_BYTES = 256
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
# The Data API reports no SQLSTATE. These texts are in errors that a retry would repeat.
_FINAL_TEXTS = (
    "does not exist",
    "permission denied",
    "syntax error",
    "cannot be cast",
    "cannot cast",
    "invalid input",
    "ambiguous",
)
_PASSING_CODES = frozenset({
    "ThrottlingException", "Throttling", "TooManyRequestsException", "ActiveStatementsExceededException",
    "InternalServerException", "InternalServerError", "InternalError", "SlowDown", "ServiceUnavailable",
    "DatabaseConnectionException", "RequestTimeout", "ExpiredTokenException", "ExpiredToken",
})  # fmt: skip


class _StatementError(Exception):
    """A statement failed or was cancelled."""


class RedshiftWarehouse(Warehouse):
    """Feast's offline store ``redshift``."""

    _abort: Callable[[], Any] | None = None

    def view(self, request: ViewRequest) -> SqlView:
        return query_view(request, _quoted)

    def accepts(self, schema: pa.Schema) -> bool:
        return keys_have_one_text(schema)

    def join(self, view: SqlView, events: Events) -> Iterator[pa.RecordBatch]:
        from feast.infra.offline_stores import redshift as feast_redshift
        from feast.infra.utils import aws_utils

        config = self._store.config.offline_store
        _require_castable(view, events.schema)
        with self._errors(view):
            with feast_repo.quietly():
                client: Any = aws_utils.get_redshift_data_client(config.region)
                s3: Any = aws_utils.get_s3_resource(config.region)
            bucket, root = aws_utils.get_bucket_and_key(config.s3_staging_location.rstrip("/") + "/")
            with _folder(s3.Bucket(bucket), root) as folder:
                schema = None
                events = replace(events, batches=_verified(events, view))
                for path, of_file in parquet_files(events, pa.timestamp("us")):
                    s3.Bucket(bucket).upload_file(path, f"{folder}events/{os.path.basename(path)}")
                    schema = of_file
                assert schema is not None  # there are events
                template = feast_redshift.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN
                sql = join_sql(self._store, view, events, _EVENTS, template)
                url = f"s3://{bucket}/{folder}"
                self._run(client, _statements(schema, sql, view.result, url, config.iam_role))
                for batch in _rows(s3.Bucket(bucket), f"{folder}result/"):
                    yield without_json(batch, view)

    def cancel(self) -> bool:
        return self._abort is not None and bool(self._abort()["Status"])

    def _run(self, client: Any, statements: list[str]) -> None:
        from feast.infra.utils import aws_utils

        config = self._store.config.offline_store
        started = aws_utils.execute_redshift_statement_async(
            client, config.cluster_id, config.workgroup, config.database, config.user, ";\n".join(statements)
        )
        run = started["Id"]
        self._abort = lambda: client.cancel_statement(Id=run)
        wait = _FIRST_WAIT
        while (found := client.describe_statement(Id=run))["Status"] not in ("FINISHED", "FAILED", "ABORTED"):
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        if found["Status"] != "FINISHED":
            raise _StatementError(found.get("Error") or f"the status of the statements is {found['Status']}")

    @contextmanager
    def _errors(self, view: SqlView) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from feast.errors import RedshiftCredentialsError

        failures = (_StatementError, RedshiftCredentialsError, BotoCoreError, ClientError, Boto3Error, OSError)
        try:
            yield
        except (*failures, pa.ArrowException) as error:
            if isinstance(error, ClientError):
                final = error.response["Error"]["Code"] not in _PASSING_CODES
            elif isinstance(error, _StatementError):
                final = any(text in str(error) for text in _FINAL_TEXTS)
            else:
                final = isinstance(error, RedshiftCredentialsError)
            advice = (
                "Correct the source of the feature view, or the types of the join keys. The account needs "
                "redshift-data:ExecuteStatement, DescribeStatement and CancelStatement, and the objects of "
                "s3_staging_location. The user of feature_store.yaml needs SELECT on the source and TEMP on the database."
                if final
                else "Check that Redshift's Data API and s3_staging_location can be reached where the step runs."
            )
            text = str(error) if isinstance(error, _StatementError) else one_line(error)
            raise failure("Redshift", view, text, advice, final=final) from None


def _require_castable(view: SqlView, schema: pa.Schema) -> None:
    """Check that Redshift can cast the join keys to text, as Feast's SQL does.

    :raises FeatureStoreError: a join key is boolean
    """
    for field in schema:
        if pa.types.is_boolean(field.type):
            raise FeatureStoreError(
                f"Join key {view.keys[field.name]!r} of feature view {view.request.view.name!r} is boolean, but Feast's SQL casts join "
                "keys to text, which Redshift cannot do with booleans. Use an integer in the source and in the events."
            )


def _verified(events: Events, view: SqlView) -> Iterator[pa.RecordBatch]:
    """Yield the events, if Redshift does not confuse them.

    :raises FeatureStoreError: a join key is so long that its text in Feast's SQL is cut
    """
    texts = [f.name for f in events.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    for batch in events.batches:
        for name in texts:
            longest = pc.max(pc.binary_length(batch.column(name))).as_py() or 0
            if longest > _KEY_BYTES:
                raise FeatureStoreError(
                    f"Join key {view.keys[name]!r} of the events has values of {longest:,} bytes, but Feast's SQL for Redshift "
                    f"compares only the first {_KEY_BYTES} bytes. Use shorter keys."
                )
        yield batch


def _statements(schema: pa.Schema, sql: str, result: list[str], url: str, role: str) -> list[str]:
    columns = ", ".join(f"{field.name} {_type(field.type)}" for field in schema)
    target = f"TO '{url}result/' IAM_ROLE '{role}' FORMAT AS PARQUET MAXFILESIZE 128 MB"
    return [
        # Times that the source stores without a time zone are in UTC, like those of the events.
        "SET timezone TO 'UTC'",
        f"CREATE TEMP TABLE {_EVENTS} ({columns})",
        f"COPY {_EVENTS} FROM '{url}events/' IAM_ROLE '{role}' FORMAT AS PARQUET",
        f"CREATE TEMP TABLE {_JOINED} AS ({sql})",
        f"UNLOAD ('SELECT {', '.join(result)} FROM {_JOINED}') {target}",  # noqa: S608
    ]


def _rows(bucket: Any, prefix: str) -> Iterator[pa.RecordBatch]:
    with temporary_folder("redshift") as local:
        path = f"{local}/part.parquet"
        for item in bucket.objects.filter(Prefix=prefix):
            bucket.download_file(item.key, path)
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches()


@contextmanager
def _folder(bucket: Any, root: str) -> Iterator[str]:
    """Return the prefix for the objects of one join, and delete the objects at the end of the block.

    Objects that killed tasks left behind are deleted after a week.
    """
    with suppress(Exception):
        _remove_abandoned(bucket, root)
    folder = f"{root}{staging.new_name()}/"
    try:
        yield folder
    finally:
        # If this fails, the objects are deleted later. An error here must not hide an earlier error.
        with suppress(Exception):
            bucket.objects.filter(Prefix=folder).delete()


def _remove_abandoned(bucket: Any, root: str) -> None:
    pages = bucket.meta.client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket.name, Prefix=root + staging.PREFIX, Delimiter="/"
    )
    for folder in [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]:
        if staging.is_abandoned(folder):
            bucket.objects.filter(Prefix=folder).delete()
            log.info("Deleted s3://%s/%s, which a killed task had left behind.", bucket.name, folder)


def _type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "BIGINT"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP"
    return "DATE" if pa.types.is_date(kind) else "VARCHAR(65535)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
