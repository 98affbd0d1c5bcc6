"""Join in PostgreSQL. The events are in a temporary table of one session, in which Feast's SQL runs.

The driver streams the events and the result in the binary format of COPY. The server drops the temporary table when the
session ends, even if the task was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import FeatureStoreError
from airflow_mlops.data.databases.connections import driver_message, postgres_uri
from airflow_mlops.data.databases.failures import is_final
from airflow_mlops.data.databases.queries.postgres import BATCH_BYTES, result_column
from airflow_mlops.data.databases.queries.postgres_types import PostgresColumns
from airflow_mlops.data.databases.sessions import NOTICE_LOST_CLIENT, POSTGRES_SETTINGS
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.warehouse.base import Events, Warehouse, failure
from airflow_mlops.data.feast.warehouse.view import EVENT, EVENT_TIME, SqlView

if TYPE_CHECKING:
    from feast import FeatureStore

_TABLE = "mlops_events"
_DENIED = "42501"


class PostgresWarehouse(Warehouse):
    """Feast's offline store ``postgres``."""

    def __init__(self, store: FeatureStore) -> None:
        super().__init__(store)
        from feast.infra.utils.postgres.connection_utils import _get_conn_kwargs

        config = store.config.offline_store
        extra = {**_get_conn_kwargs(config), "keepalives_idle": config.keepalives_idle}
        self._info = ConnectionInfo.of(
            "offline_store",
            conn_type="postgres",
            host=config.host,
            port=config.port,
            login=config.user,
            password=config.password,
            schema=config.database,
            extra={name: value for name, value in extra.items() if value is not None},
        )
        self._connection: Any = None

    def join(self, view: SqlView, events: Events) -> Iterator[pa.RecordBatch]:
        try:
            import adbc_driver_postgresql.dbapi as driver
        except ImportError:
            raise FeatureStoreError(
                "The offline store of the Feast repository is PostgreSQL, which needs the ADBC driver. Install "
                "airflow-mlops[adbc] where the step runs."
            ) from None

        with self._errors(view):
            sql = self._sql(view, events)
            # The transaction is never committed. At the end, the server drops the temporary table and resets the settings.
            with driver.connect(postgres_uri(self._info)) as connection, connection.cursor() as cursor:
                self._connection = connection
                for statement in POSTGRES_SETTINGS:
                    cursor.execute(statement)
                cursor.execute("SAVEPOINT mlops")
                try:
                    cursor.execute(NOTICE_LOST_CLIENT)
                    cursor.fetchall()
                except driver.Error:
                    cursor.execute("ROLLBACK TO SAVEPOINT mlops")
                reader = pa.RecordBatchReader.from_batches(events.schema, events.batches)
                cursor.adbc_ingest(_TABLE, reader, mode="create", temporary=True)
                cursor.execute(f"ANALYZE {_TABLE}")
                columns = PostgresColumns([result_column(field) for field in cursor.adbc_execute_schema(sql)], {})
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": BATCH_BYTES})
                cursor.execute(columns.query(sql))
                # fetch_record_batch() would return a reader whose errors have no SQLSTATE.
                results: Any = cursor._results
                for batch in results.reader:
                    yield columns.convert(batch).select(view.result)

    def cancel(self) -> bool:
        if self._connection is None:
            return False
        self._connection.adbc_cancel()
        return True

    def _sql(self, view: SqlView, events: Events) -> str:
        """Return the SQL of Feast's join, on the temporary table.

        To determine the columns and the range of times of the events, Feast runs their query in sessions of its own.
        These sessions do not see the temporary table. Therefore, Feast gets a query that returns two rows, and this query
        is replaced in the SQL of the join.
        """
        from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import EntitySelectMode

        first, last = events.bounds(timedelta(0))
        keys = "".join(f", 0 AS {key}" for key in view.keys)
        stand_in = (
            f"SELECT 0 AS {EVENT}{keys}, t AS {EVENT_TIME} FROM "  # noqa: S608 - the names are generated here
            f"(VALUES (TIMESTAMP '{first.isoformat()}'), (TIMESTAMP '{last.isoformat()}')) AS mlops_range (t)"
        )
        config = self._store.config.offline_store
        config = config.model_copy(update={"entity_select_mode": EntitySelectMode.embed_query})
        provider: Any = self._store.provider
        with feast_repo.quietly(), feast_repo.locked(self._store, shared=True):
            job = provider.offline_store.get_historical_features(
                # Feast's store reads no other part of the configuration.
                config=SimpleNamespace(offline_store=config),
                feature_views=[view.view],
                feature_refs=view.refs,
                entity_df=stand_in,
                registry=self._store.registry,
                project=self._store.project,
            )
            sql: str = job.to_sql()
        if sql.count(stand_in) != 1:
            raise FeatureStoreError(
                "Feast's SQL for PostgreSQL does not contain the query of the events exactly once. Report this "
                "defect with the installed version of feast."
            )
        table = f"SELECT {', '.join([EVENT, *view.keys, EVENT_TIME])} FROM pg_temp.{_TABLE}"  # noqa: S608
        return sql.replace(stand_in, table)

    @contextmanager
    def _errors(self, view: SqlView) -> Iterator[None]:
        import adbc_driver_manager
        import psycopg

        try:
            yield
        # While a result is streamed, Arrow raises errors of some drivers as OSError.
        except (adbc_driver_manager.Error, psycopg.Error, OSError, pa.ArrowException) as error:
            final = is_final(error, "postgresql")
            message, advice = driver_message(error, self._info), self._advice(error, final)
            raise failure("PostgreSQL", view, message, advice, final=final) from None

    def _advice(self, error: BaseException, final: bool) -> str:
        if (getattr(error, "sqlstate", None) or "") == _DENIED:
            return (
                f"Grant the user {self._info.login!r} of feature_store.yaml SELECT on the tables of the source, and TEMPORARY on "
                f"the database {self._info.schema_!r}, because the events are in a temporary table."
            )
        if final:
            return "Correct the source of the feature view, or the types of the join keys."
        return "Check that the server in feature_store.yaml can be reached where the step runs."
