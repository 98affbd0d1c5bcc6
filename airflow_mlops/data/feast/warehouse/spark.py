"""Join in Spark. The events and the result are Parquet files that both this process and the executors can reach."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from airflow_mlops.core.errors import FeatureStoreError
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.warehouse import staging
from airflow_mlops.data.feast.warehouse.base import Events, Warehouse, failure
from airflow_mlops.data.feast.warehouse.view import EVENT, EVENT_TIME, SqlView

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from pyspark.sql import SparkSession

log = logging.getLogger("airflow_mlops.data")

_SETTINGS = {
    # Feast identifies events by the text of their time, which is ambiguous where summer time ends, and writes times in UTC.
    "spark.sql.session.timeZone": "UTC",
    # Spark's default is INT96, which Arrow reads as nanoseconds.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
_MARGIN = timedelta(days=1)
# Numbers of the two additional events that only widen the range of times.
_OUTSIDE = -1


@dataclass(frozen=True)
class _Folder:
    """A folder for the files of one join.

    :param url: the folder, for Spark
    :param fs: file system of the folder, for this process
    :param path: path of the folder in ``fs``
    """

    url: str
    fs: AbstractFileSystem
    path: str


class SparkWarehouse(Warehouse):
    """Feast's offline store ``spark``."""

    def join(self, view: SqlView, events: Events) -> Iterator[pa.RecordBatch]:
        with self._errors(view):
            session = self._session()
            with _settings(session), self._folder(session) as folder:
                _write(folder, view, events)
                self._run(session, folder, view)
                files = ds.dataset(f"{folder.path}/result", format="parquet", filesystem=folder.fs)
                yield from files.to_batches(columns=view.result, filter=ds.field(EVENT) != _OUTSIDE)

    def _session(self) -> SparkSession:
        from feast.infra.offline_stores.contrib.spark_offline_store.spark import (
            get_spark_session_or_start_new_with_repoconfig,
        )

        with feast_repo.quietly():
            session: SparkSession = get_spark_session_or_start_new_with_repoconfig(self._store.config.offline_store)
        return session

    def _run(self, session: SparkSession, folder: _Folder, view: SqlView) -> None:
        provider: Any = self._store.provider
        with feast_repo.quietly():
            with feast_repo.locked(self._store, shared=True):
                job = provider.offline_store.get_historical_features(
                    config=self._store.config,
                    feature_views=[view.view],
                    feature_refs=view.refs,
                    entity_df=session.read.parquet(f"{folder.url}/events"),
                    registry=self._store.registry,
                    project=self._store.project,
                )
            job.to_spark_df().write.parquet(f"{folder.url}/result")

    @contextmanager
    def _folder(self, session: SparkSession) -> Iterator[_Folder]:
        """Create a folder in the staging location, and delete it at the end of the block.

        Folders that killed tasks left behind are deleted after a week.

        :raises FeatureStoreError: Spark has executors on other machines, but there is no staging location
        """
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        location = self._store.config.offline_store.staging_location
        if not location:
            if not session.conf.get("spark.master", "").startswith("local"):
                raise FeatureStoreError(
                    "The offline store of the Feast repository is Spark, whose executors read the events from files. Set "
                    "`staging_location` of the offline store in feature_store.yaml to a folder that Spark and the step can read "
                    "and write, for example s3a://bucket/staging."
                )
            with temporary_folder("spark") as local:
                yield _Folder(f"file://{local}", LocalFileSystem(), str(local))
            return
        fs, root = url_to_fs(location)
        name = staging.new_name()
        _remove_abandoned(fs, root)
        folder = _Folder(f"{location.rstrip('/')}/{name}", fs, f"{root.rstrip('/')}/{name}")
        fs.makedirs(folder.path, exist_ok=True)
        try:
            yield folder
        finally:
            # If this fails, the folder is deleted later. An error here must not hide an earlier error.
            with suppress(OSError):
                fs.rm(folder.path, recursive=True)

    @contextmanager
    def _errors(self, view: SqlView) -> Iterator[None]:
        from py4j.protocol import Py4JError, Py4JNetworkError
        from pyspark.errors import AnalysisException, PySparkException

        try:
            yield
        except (PySparkException, Py4JError, OSError, pa.ArrowException) as error:
            final = isinstance(error, AnalysisException)
            lost = isinstance(error, Py4JNetworkError)
            text = "its process ended" if lost else (str(error).strip().splitlines() or [type(error).__name__])[0]
            advice = (
                "Correct the source of the feature view, or the types of the join keys."
                if final
                else "Check that Spark and the staging location in feature_store.yaml can be reached where the step runs."
            )
            raise failure("Spark", view, text, advice, final=final) from None


def _write(folder: _Folder, view: SqlView, events: Events) -> None:
    """Write the events as a Parquet file.

    Feast reads the first and the last time of the events in the time zone of this process, but compares them as if they
    were in UTC. Two events without join keys, a day before and a day after all others, correct the range.
    """
    folder.fs.makedirs(f"{folder.path}/events", exist_ok=True)
    outside = [time.replace(tzinfo=timezone.utc) for time in events.bounds(_MARGIN)]
    columns = {name: pa.nulls(2, events.schema.field(name).type) for name in view.keys}
    columns |= {EVENT: pa.array([_OUTSIDE] * 2), EVENT_TIME: pa.array(outside, pa.timestamp("us", "UTC"))}
    with (
        folder.fs.open(f"{folder.path}/events/events.parquet", "wb") as file,
        pq.ParquetWriter(file, events.schema) as writer,
    ):
        for batch in events.batches:
            writer.write_batch(batch)
        writer.write_batch(
            pa.RecordBatch.from_arrays([columns[name] for name in events.schema.names], schema=events.schema)
        )


@contextmanager
def _settings(session: SparkSession) -> Iterator[None]:
    before = {name: session.conf.get(name) for name in _SETTINGS}
    for name, value in _SETTINGS.items():
        session.conf.set(name, value)
    try:
        yield
    finally:
        # The session may have ended with an error, which is more important.
        with suppress(Exception):
            for name, earlier in before.items():
                session.conf.set(name, earlier)


def _remove_abandoned(fs: AbstractFileSystem, root: str) -> None:
    with suppress(OSError):
        for path in fs.ls(root, detail=False):
            if staging.is_abandoned(path):
                fs.rm(path, recursive=True)
                log.info("Deleted the folder %s, which a killed task had left behind.", path)
