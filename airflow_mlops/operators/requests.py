"""The asset ``mlops://MODEL/retrain``: asking for retraining, and finding out in a training run who asked and why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias
from pydantic import ValidationError

from airflow_mlops.core.calls import Request

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger("airflow_mlops.operators")
# Of the asset's last events, in which a request is looked for that a check of an old window repeats.
_EVENTS = 200


def retrain_asset(model: str) -> Asset:
    """The asset whose events ask for retraining ``model``."""
    return Asset(f"mlops://{model}/retrain")


def emit_request(alias: AssetAlias, context: Context, result: dict[str, Any], told: dict[str, Any]) -> None:
    """Ask for retraining, unless the same was asked before: a window that is checked again does not train again.

    Airflow's own record of the events tells, so a request whose task died before Airflow sent the event is not lost.

    :param told: what else the event says
    """
    asset, request = retrain_asset(result["model"]), result["request"]
    # The time as well: somebody may have begun anew with an empty artifact store.
    if (request["id"], request["created"]) in _sent(asset):
        log.info("Retraining was asked for already, for this window: %s. No event is sent again.", request["id"])
        return
    context["outlet_events"][alias].add(asset, extra={**told, "request": request})


def _sent(asset: Asset) -> set[tuple[Any, Any]]:
    # Only a running task has what this talks to.
    from airflow.sdk.execution_time.context import InletEventsAccessor

    events = InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri).ascending(False).limit(_EVENTS)
    found = [(event.extra or {}).get("request") for event in events]
    return {(request.get("id"), request.get("created")) for request in found if isinstance(request, dict)}


def requests_of(context: Context) -> list[Request]:
    """The requests for retraining that started the DAG run, oldest first; none where something else did."""
    events = context.get("triggering_asset_events") or {}
    # An event is there under its aliases as well.
    found = [(asset, event) for asset in events if isinstance(asset, Asset) for event in events[asset]]
    requests = []
    for asset, event in sorted(found, key=lambda item: item[1].timestamp):
        told = (event.extra or {}).get("request")
        if told is None or asset.uri != (asset_of := f"mlops://{_model(told)}/retrain"):
            continue
        try:
            requests.append(Request.model_validate(told))
        except ValidationError as error:
            log.warning("An event of %s holds no request that can be read: %s", asset_of, error.errors()[0]["msg"])
    return requests


def _model(told: Any) -> str:
    return str(told.get("model", "")) if isinstance(told, dict) else ""
