"""Tables and files outside the artifact store, for ingestion and for predictions, as OpenLineage datasets."""

from __future__ import annotations

import logging
from typing import Any

from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.sqlparser import DatabaseInfo, SQLParser
from airflow.sdk import BaseHook
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import input_statistics_input_dataset

from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.references import AnyTableTarget, DeltaTarget, IcebergTarget
from airflow_mlops.data.databases.connections import database_path
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.lineage import facets
from airflow_mlops.lineage.naming import connection_namespace, place
from airflow_mlops.stages.ingest.spec import IngestSpec

log = logging.getLogger(__name__)

# If a glob matches more files than this, the glob is named instead of the files.
_MOST_FILES = 100


def files(spec: IngestSpec, output: Manifest | None) -> list[InputDataset]:
    """Return the OpenLineage inputs for the files that an ingestion read.

    The inputs are the files and glob patterns in the parameters if the task failed, if it read more than 100 files, or
    if it read archives. Otherwise, the inputs are the files that were read.

    :param spec: parameters of the ingestion
    :param output: manifest of the dataset that was written; ``None`` if the task failed
    """
    read: list[dict[str, Any]] = list(output.source.get("read") or ()) if output else []
    # For files in an archive (``member::archive``), the lineage contains the archive.
    if not 0 < len(read) <= _MOST_FILES or any("::" in url for url in (*spec.files, *(file["file"] for file in read))):
        asked = [place(url) for url in spec.files]
        return [InputDataset(namespace, name, facets=facets.source(namespace)) for namespace, name in asked]
    whole = output.columns if output is not None and spec.columns is None else ()
    columns = facets.schema((column.name, column.type) for column in whole)
    found = []
    for file in read:
        namespace, name = place(file["file"])
        statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(size=file["bytes"], fileCount=1)
        found.append(
            InputDataset(
                namespace=namespace,
                name=name,
                facets={**facets.source(namespace), **facets.version(file["sha256"]), **columns},
                inputFacets={"inputStatistics": statistics},
            )
        )
    return found


def query(conn_id: str, sql: str) -> OperatorLineage[Any, Any]:
    """Return the lineage of a step that reads from a database: the tables as inputs, and the query as a job facet.

    The Airflow provider of the database determines the names of the tables.
    """
    hook, info, dialect, schema = _database(conn_id)
    parser = SQLParser(dialect=dialect, default_schema=schema)
    found = parser.generate_openlineage_metadata_from_sql(sql, hook, info, use_connection=False)
    for table in found.inputs:
        table.facets = {**(table.facets or {}), **facets.source(table.namespace)}
    return OperatorLineage(inputs=found.inputs, run_facets=found.run_facets, job_facets=found.job_facets)


def validated_table(conn_id: str, name: str, input_facets: facets.Facets) -> list[InputDataset]:
    """Return the OpenLineage input for a table that the database validated.

    :param input_facets: facets about the validation
    """
    found = query(conn_id, f"SELECT * FROM {_quoted(name)}").inputs  # noqa: S608 - only parsed
    return [InputDataset(one.namespace, one.name, facets=one.facets or {}, inputFacets=input_facets) for one in found]


def _quoted(name: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def table(target: AnyTableTarget) -> list[OutputDataset]:
    """Return the OpenLineage output for a table to which predictions are written."""
    if isinstance(target, DeltaTarget):
        namespace, folder = place(target.delta)
        return [OutputDataset(namespace, folder, facets=facets.source(namespace))]
    if isinstance(target, IcebergTarget):
        namespace = connection_namespace(target.conn_id)
        return [OutputDataset(namespace, target.iceberg, facets=facets.source(namespace))]
    hook, info, dialect, schema = _database(target.conn_id)
    parser = SQLParser(dialect=dialect, default_schema=schema)
    statement = f"INSERT INTO {_quoted(target.table)} SELECT 1"
    found = parser.generate_openlineage_metadata_from_sql(statement, hook, info, use_connection=False)
    return [OutputDataset(made.namespace, made.name, facets=facets.source(made.namespace)) for made in found.outputs]


def _database(conn_id: str) -> tuple[Any, DatabaseInfo, str | None, str | None]:
    """Return the information about the database of an Airflow connection that OpenLineage needs.

    :return: four items: the hook, OpenLineage's description of the database, the SQL dialect and the default schema.
        The hook, the dialect and the schema are each ``None`` if unknown
    """
    try:
        known = airflow_connection(conn_id)
    except MLOpsError:
        return None, DatabaseInfo(scheme=connection_namespace(conn_id)), None, None
    if known.conn_type == "sqlite":
        # SQLite databases are files, and the SQLite provider has no OpenLineage names for them.
        return None, DatabaseInfo(scheme="sqlite", authority=str(database_path(known).absolute())), "sqlite", "main"
    try:
        hook = BaseHook.get_hook(conn_id)
        info = hook.get_openlineage_database_info(BaseHook.get_connection(conn_id))
        if info is not None:
            dialect = hook.get_openlineage_database_dialect(BaseHook.get_connection(conn_id))
            return hook, info, dialect, _default_schema(hook)
    except Exception as error:  # noqa: BLE001 - no provider for this database, or one without OpenLineage support
        log.debug("Connection %r has no hook with OpenLineage support: %s", conn_id, type(error).__name__)
    authority = f"{known.host}:{known.port}" if known.port else known.host
    return None, DatabaseInfo(scheme=known.conn_type, authority=authority, database=known.schema_), None, None


def _default_schema(hook: Any) -> str | None:
    """Return the default schema: the schema of tables that a query names without a schema.

    Some hooks query the database to find the default schema.
    """
    try:
        return str(hook.get_openlineage_default_schema())
    except Exception as error:  # noqa: BLE001 - lineage is best effort; the query itself has succeeded
        log.debug("The default schema could not be queried: %s", type(error).__name__)
        return DbApiHook.get_openlineage_default_schema(hook)
