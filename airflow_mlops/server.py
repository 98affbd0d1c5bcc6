"""Functions for commands and the API that access Airflow's metadata database. Tasks must not access this database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import conf

from airflow_mlops.assets import Consumer, champion_uri, consumers, retrain_uri
from airflow_mlops.compute.connections import look_up
from airflow_mlops.core.errors import MLOpsError

if TYPE_CHECKING:
    from airflow_mlops.core.calls import Request
    from airflow_mlops.core.connections import ConnectionInfo
    from airflow_mlops.stages.outside_moves.spec import OutsideMovesResult
    from airflow_mlops.stages.promote.spec import PromoteResult
    from airflow_mlops.stages.rollback.spec import RollbackResult


def connection(conn_id: str) -> ConnectionInfo:
    """Return a connection from the secrets backends, the environment or the database.

    :param conn_id: id of the connection
    :raises ConnectionNotFoundError: the connection is not defined
    :raises ConnectionUnavailableError: a secrets backend or the database does not answer
    :raises SpecError: the connection is defined, but invalid
    """
    # Outside a task, airflow.sdk's Connection does not look in the database.
    from airflow.configuration import ensure_secrets_loaded
    from airflow.models import Connection

    return look_up(conn_id, Connection.get_connection_from_secrets, ensure_secrets_loaded)  # noqa: AIR311


def dags_folder() -> str:
    """Return the path of Airflow's DAGs folder; empty if it is not configured."""
    return str(conf.get("core", "dags_folder", fallback="") or "")


def retraining_consumers(model: str) -> list[Consumer]:
    """Return the DAGs that are scheduled on the asset ``mlops://MODEL/retrain``, sorted by name.

    :param model: name of the registered model
    :raises MLOpsError: the database could not be read
    """
    from airflow.utils.session import create_session
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_session() as session:
            return consumers(retrain_uri(model), session)
    except SQLAlchemyError as error:
        raise MLOpsError(f"Airflow's database could not be read ({type(error).__name__}).") from error


def emit_request(request: Request, teams: set[str] | None = None) -> list[str]:
    """Create an event of the asset ``mlops://MODEL/retrain`` that requests retraining, as MonitorOperator does.

    The partition key of the event is the label of the window.

    :param request: the request
    :param teams: teams of the user, if Airflow runs with several teams
    :return: ids of the DAGs that are scheduled on the asset and are not paused
    :raises MLOpsError: no DAG is scheduled on the asset, all these DAGs are paused, Airflow does not know the asset
        yet, or the database could not be read or written
    """
    from airflow.assets.manager import asset_manager
    from airflow.models.asset import AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    started = require_listeners(request.model)
    uri = retrain_uri(request.model)
    content = request.model_dump(mode="json")
    extra = {"decision": "retrain", "headline": request.reason, "reason": request.reason, "window": content["window"]}
    try:
        with create_session() as session:
            asset = session.scalar(select(AssetModel).where(AssetModel.uri == uri))
            if asset is None:
                raise MLOpsError(
                    f"Airflow does not know the asset {uri} yet. Retry when the training DAG has been parsed."
                )
            asset_manager.register_asset_change(
                asset=asset,
                extra={**extra, "metrics": {}, "request": content},
                partition_key=request.window.label,
                session=session,
                source_is_api=True,
                api_user_teams=teams or set(),
            )
    except SQLAlchemyError as error:
        raise MLOpsError(
            f"The request was recorded in the ledger, but the event of asset {uri} could not be written to Airflow's database "
            f"({type(error).__name__}). To send the event, request retraining again with the same reason."
        ) from error
    return started


def require_listeners(model: str) -> list[str]:
    """Check that a DAG is ready for requests for retraining, and return the DAGs that are.

    :param model: name of the registered model
    :return: ids of the DAGs that are scheduled on the asset ``mlops://MODEL/retrain`` and are not paused
    :raises MLOpsError: no DAG is scheduled on the asset, all these DAGs are paused, or the database could not be read
    """
    found = retraining_consumers(model)
    awake = [dag.dag_id for dag in found if not dag.paused]
    if not awake:
        paused = f", because these DAGs are paused: {', '.join(dag.dag_id for dag in found)}" if found else ""
        raise MLOpsError(
            f"Nothing listens to {retrain_uri(model)}{paused}. "
            + ("Unpause one of them." if found else "Schedule a training DAG on this asset.")
        )
    return awake


def emit_champion(result: RollbackResult | PromoteResult | OutsideMovesResult) -> None:
    """Create an event of the asset ``mlops://MODEL/champion``, if Airflow has this asset.

    No event is created if the last event of the asset has the same content. A repeated call therefore creates no second
    event.

    :param result: the result of the rollback or promotion that has changed the champion, or the change that was noticed
        in MLflow
    :raises MLOpsError: the event could not be written to the database
    """
    from airflow.assets.manager import asset_manager
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    uri = champion_uri(result.model)
    extra = {
        "version": result.champion.version if result.champion else None,
        "run_id": result.champion.run_id if result.champion else None,
        "replaced": result.replaced.version if result.replaced else None,
        "reason": result.reason,
    }
    try:
        with create_session() as session:
            # Two requests about one change may arrive at the same time. The lock makes the second request wait for the
            # first.
            asset = session.scalar(select(AssetModel).where(AssetModel.uri == uri).with_for_update())
            if asset is None:
                return
            events = select(AssetEvent).where(AssetEvent.asset_id == asset.id).order_by(AssetEvent.id.desc())
            last = session.scalar(events.limit(1))
            if last is None or last.extra != extra:
                asset_manager.register_asset_change(asset=asset, extra=extra, session=session, source_is_api=True)
    except SQLAlchemyError as error:
        raise MLOpsError(
            f"The champion was changed, but the event of asset {uri} could not be written to Airflow's database "
            f"({type(error).__name__}). The next PromoteOperator or RollbackOperator that leaves "
            "the champion unchanged sends this event."
        ) from error
