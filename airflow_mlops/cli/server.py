"""What a command asks of the Airflow that it runs in: it has the metadata database, which a task has not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import conf

from airflow_mlops.compute.connections import connection_info, undefined
from airflow_mlops.core.errors import MLOpsError

if TYPE_CHECKING:
    from airflow_mlops.core.connections import ConnectionInfo
    from airflow_mlops.stages.rollback.spec import RollbackResult


def connection(conn_id: str) -> ConnectionInfo:
    """Look a connection up, secrets backends and database included.

    :raises ConnectionNotFoundError: Airflow has no such connection
    """
    # The one of airflow.sdk asks the database for nothing outside a task.
    from airflow.models import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return connection_info(conn_id, Connection.get_connection_from_secrets(conn_id))  # noqa: AIR311
    except AirflowNotFoundException:
        raise undefined(conn_id) from None


def dags_folder() -> str:
    """Where the DAG files lie."""
    return str(conf.get("core", "dags_folder", fallback="") or "")


def emit_champion(result: RollbackResult) -> None:
    """Say on the asset ``mlops://MODEL/champion`` that the champion changed, if a DAG knows the asset.

    :raises MLOpsError: the database did not take it
    """
    from airflow.assets.manager import asset_manager
    from airflow.models.asset import AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    uri = f"mlops://{result.model}/champion"
    extra = {
        "version": result.champion.version,
        "run_id": result.champion.run_id,
        "replaced": result.replaced.version if result.replaced else None,
        "reason": result.reason,
    }
    try:
        with create_session() as session:
            asset = session.scalar(select(AssetModel).where(AssetModel.uri == uri))
            if asset is not None:
                asset_manager.register_asset_change(asset=asset, extra=extra, session=session, source_is_api=True)
    except SQLAlchemyError as error:
        raise MLOpsError(
            f"The champion was rolled back, but Airflow's database did not take the event of {uri} "
            f"({type(error).__name__}): the next PromoteOperator or RollbackOperator of the model sends it."
        ) from error
