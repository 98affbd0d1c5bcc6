"""Join in BigQuery. The events are loaded as Parquet files, into a table that is deleted at the end of the join.

If the task is killed, the table expires.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.errors import one_line
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.feast.warehouse.base import Events, Warehouse, failure
from airflow_mlops.data.feast.warehouse.query import (
    TIME,
    join_sql,
    keys_have_one_text,
    query_view,
    select,
    without_json,
)
from airflow_mlops.data.feast.warehouse.upload import parquet_files
from airflow_mlops.data.feast.warehouse.view import SqlView

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

_EXPIRES = timedelta(days=1)
_WITHOUT_ZONE = ("DATE", "DATETIME")
# Errors with the status of a wrong request, although the same request may succeed later.
_PASSING = frozenset({"rateLimitExceeded", "quotaExceeded", "jobRateLimitExceeded", "backendError", "stopped"})
# NUMERIC has at most 29 digits before the decimal point and 9 after it.
_NUMERIC_DIGITS, _NUMERIC_SCALE = 29, 9


class BigQueryWarehouse(Warehouse):
    """Feast's offline store ``bigquery``."""

    _job: Any = None

    def view(self, request: ViewRequest) -> SqlView:
        def query(table: str, columns: dict[str, str]) -> str:
            if request.view.batch_source.timestamp_field_type.upper() in _WITHOUT_ZONE:
                # BigQuery does not compare a DATETIME or DATE with the time of an event (TIMESTAMP). The time zone is
                # stated, because the default time zone of the project may not be UTC.
                columns = {**columns, TIME: f"TIMESTAMP({columns[TIME]}, 'UTC')"}
            return select(table, columns)

        made = query_view(request, _quoted, query)
        made.view.batch_source.timestamp_field_type = ""
        return made

    def accepts(self, schema: pa.Schema) -> bool:
        return keys_have_one_text(schema)

    def join(self, view: SqlView, events: Events) -> Iterator[pa.RecordBatch]:
        from feast.infra.offline_stores import bigquery as feast_bigquery

        config = self._store.config.offline_store
        with self._errors(view):
            with feast_repo.quietly():
                client: Client = feast_bigquery._get_bigquery_client(
                    project=config.billing_project_id or config.project_id, location=config.location
                )
                # This creates the dataset if it does not exist and the configuration allows it.
                table = feast_bigquery._get_table_reference_for_new_entity(
                    client,
                    config.project_id if config.billing_project_id else client.project,
                    config.dataset,
                    config.location,
                    config.table_create_disposition,
                )
            try:
                _upload(client, table, events)
                template = feast_bigquery.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN
                self._job = client.query(join_sql(self._store, view, events, table, template))
                # Without the package of the Storage API, the client is None, and rows come as JSON.
                reader = client._ensure_bqstorage_client()
                for batch in self._job.result().to_arrow_iterable(bqstorage_client=reader):
                    yield without_json(batch, view)
            finally:
                # If this fails, the table expires. An error here must not hide an earlier error.
                with suppress(Exception):
                    client.delete_table(table, not_found_ok=True)

    def cancel(self) -> bool:
        return self._job is not None and bool(self._job.cancel())

    @contextmanager
    def _errors(self, view: SqlView) -> Iterator[None]:
        from feast.errors import FeastProviderLoginError
        from google.api_core.exceptions import ClientError, GoogleAPIError, TooManyRequests
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except (
            GoogleAPIError,
            GoogleAuthError,
            FeastProviderLoginError,
            OSError,
            ValueError,
            pa.ArrowException,
        ) as error:
            reasons = {str(item.get("reason")) for item in getattr(error, "errors", ()) if isinstance(item, dict)}
            final = isinstance(error, ClientError | FeastProviderLoginError | ValueError) and not (
                isinstance(error, TooManyRequests) or reasons & _PASSING
            )
            advice = (
                "Correct the source of the feature view, or the types of the join keys. The account needs the roles "
                "BigQuery Job User on the project, BigQuery Data Viewer on the source, and BigQuery Data Editor on the "
                "dataset of feature_store.yaml."
                if final
                else "Check that BigQuery can be reached where the step runs."
            )
            if final and "DATETIME" in str(error):
                advice = f'If the time is a DATETIME, set timestamp_field_type="DATETIME" on the source. {advice}'
            raise failure("BigQuery", view, one_line(error), advice, final=final) from None


def _upload(client: Client, name: str, events: Events) -> None:
    import google.cloud.bigquery as bigquery

    created = False
    for path, schema in parquet_files(events, pa.timestamp("us", "UTC")):
        fields = [bigquery.SchemaField(field.name, _type(field.type)) for field in schema]
        if not created:
            table = bigquery.Table(name, schema=fields)
            table.expires = datetime.now(timezone.utc) + _EXPIRES
            client.create_table(table)
            created = True
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=fields,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
        )
        with open(path, "rb") as file:
            client.load_table_from_file(file, name, job_config=config).result()


def _type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "INT64"
    if pa.types.is_decimal(kind):
        fits = kind.precision - kind.scale <= _NUMERIC_DIGITS and kind.scale <= _NUMERIC_SCALE
        return "NUMERIC" if fits else "BIGNUMERIC"
    if pa.types.is_boolean(kind):
        return "BOOL"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP"
    return "DATE" if pa.types.is_date(kind) else "STRING"


def _quoted(name: str) -> str:
    # A struct's field may be a feature: `struct`.`field`.
    return ".".join(f"`{part}`" for part in name.split("."))
