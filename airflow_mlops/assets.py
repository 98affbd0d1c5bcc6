"""The assets of a model, and the DAGs that Airflow starts on their events.

DAG files import this module, so it imports Airflow's database models only in functions that run in Airflow's own
processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def retrain_uri(model: str) -> str:
    """Return the URI of the asset whose events request retraining of ``model``."""
    return f"mlops://{model}/retrain"


def champion_uri(model: str) -> str:
    """Return the URI of the asset whose events report that the champion of ``model`` has changed."""
    return f"mlops://{model}/champion"


def is_champion_uri(uri: str) -> bool:
    """Return whether ``uri`` is the :func:`champion_uri` of a model."""
    scheme, _, rest = uri.partition("://")
    model, _, name = rest.rpartition("/")
    return scheme == "mlops" and bool(model) and name == "champion"


def version_of(extra: dict[str, Any] | None) -> int | None:
    """Return the version number in an event of the asset :func:`champion_uri`; ``None`` if the event has no version.

    :param extra: the extra of the event. If a watcher sent the event, the extra contains the payload of its Airflow
        trigger
    """
    found = extra or {}
    payload = found.get("payload") if found.get("from_trigger") else None
    version: int | None = (payload if isinstance(payload, dict) else found).get("version")
    return version


@dataclass(frozen=True)
class Consumer:
    """A DAG that is scheduled on an asset.

    :param dag_id: id of the DAG
    :param paused: whether the DAG is paused. A paused DAG misses the events that arrive while it is paused
    :param partitioned: whether the DAG has a ``PartitionedAssetTimetable``. Airflow starts such a DAG only on events
        with a partition key, and any other DAG only on events without one
    """

    dag_id: str
    paused: bool
    partitioned: bool


def consumers(uri: str, session: Session) -> list[Consumer]:
    """Return the DAGs that are scheduled on the asset ``uri``, sorted by name. Tasks cannot call this function.

    :param uri: URI of the asset
    :param session: session of Airflow's metadata database
    """
    from airflow.models.asset import (
        AssetModel,
        DagScheduleAssetNameReference,
        DagScheduleAssetReference,
        DagScheduleAssetUriReference,
    )
    from airflow.models.dag import DagModel
    from sqlalchemy import or_, select

    names = select(AssetModel.name).where(AssetModel.uri == uri)
    scheduled = (
        select(DagScheduleAssetReference.dag_id)
        .join(AssetModel, AssetModel.id == DagScheduleAssetReference.asset_id)
        .where(AssetModel.uri == uri),
        select(DagScheduleAssetUriReference.dag_id).where(DagScheduleAssetUriReference.uri == uri),
        select(DagScheduleAssetNameReference.dag_id).where(DagScheduleAssetNameReference.name.in_(names)),
    )
    found = session.execute(
        select(DagModel.dag_id, DagModel.is_paused, DagModel.timetable_partitioned)
        .where(or_(*(DagModel.dag_id.in_(ids) for ids in scheduled)), DagModel.is_stale.is_(False))
        .order_by(DagModel.dag_id)
    )
    return [Consumer(dag_id, bool(paused), bool(partitioned)) for dag_id, paused, partitioned in found]
