"""The listener that starts DAGs without partitions on requests for retraining and on changes of the champion.

The event of a request has the monitored window as partition key. The event of a new champion has the partition key of
the run that promoted it. On an event with a partition key, Airflow 3.3 starts only DAGs with partitions. If a DAG
without partitions is scheduled on the asset, this listener therefore registers the event a second time without a key.
Airflow calls the listener in the API server, after it has stored the event.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.listeners.types import AssetEvent

log = logging.getLogger(__name__)


@hookimpl
def on_asset_event_emitted(asset_event: AssetEvent) -> None:
    """Register the asset event a second time, without its partition key, for DAGs without partitions.

    This is done if the event is a request for retraining or a new champion, and an active DAG without partitions is
    scheduled on the asset.
    """
    if asset_event.partition_key is None or not (_is_request(asset_event) or _is_new_champion(asset_event)):
        return
    from airflow.assets.manager import asset_manager
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_mlops.assets import consumers

    with create_session() as session:
        if not any(not dag.partitioned and not dag.paused for dag in consumers(asset_event.asset.uri, session)):
            return
        task = session.scalar(
            select(TaskInstance).where(
                TaskInstance.dag_id == asset_event.source_dag_id,
                TaskInstance.task_id == asset_event.source_task_id,
                TaskInstance.run_id == asset_event.source_run_id,
                TaskInstance.map_index == asset_event.source_map_index,
            )
        )
        asset_manager.register_asset_change(
            task_instance=task, asset=asset_event.asset, extra=dict(asset_event.extra), session=session
        )


def _is_request(event: AssetEvent) -> bool:
    from airflow_mlops.assets import retrain_uri

    request = event.extra.get("request") if event.extra else None
    return isinstance(request, dict) and event.asset.uri == retrain_uri(str(request.get("model", "")))


def _is_new_champion(event: AssetEvent) -> bool:
    from airflow_mlops.assets import is_champion_uri

    # Events from other producers name no model version.
    return is_champion_uri(event.asset.uri) and {"version", "replaced"} <= {*(event.extra or {})}
