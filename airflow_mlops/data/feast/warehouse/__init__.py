"""Point-in-time joins inside an offline store that is a database, in batches that are never all in memory.

Feast writes the SQL of the join. This package sends the events to the store and reads the joined rows, both as Arrow
batches, and then chooses one row for each event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.data.feast.warehouse.base import Warehouse

if TYPE_CHECKING:
    from feast import FeatureStore


def find(store: FeatureStore) -> Warehouse | None:
    """Return the warehouse of a repository; ``None`` if its offline store accepts events only as a pandas DataFrame."""
    kind = store.config.offline_store.type
    if kind == "postgres":
        from airflow_mlops.data.feast.warehouse.postgres import PostgresWarehouse

        return PostgresWarehouse(store)
    if kind == "spark":
        from airflow_mlops.data.feast.warehouse.spark import SparkWarehouse

        return SparkWarehouse(store)
    if kind == "snowflake.offline":
        from airflow_mlops.data.feast.warehouse.snowflake import SnowflakeWarehouse

        return SnowflakeWarehouse(store)
    if kind == "bigquery":
        from airflow_mlops.data.feast.warehouse.bigquery import BigQueryWarehouse

        return BigQueryWarehouse(store)
    if kind == "redshift":
        from airflow_mlops.data.feast.warehouse.redshift import RedshiftWarehouse

        return RedshiftWarehouse(store)
    return None
