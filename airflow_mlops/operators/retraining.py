"""The asset ``mlops://MODEL/retrain``. Events of this asset request retraining and can start a DAG run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

from airflow_mlops.assets import retrain_uri

if TYPE_CHECKING:
    from airflow.sdk import AssetAlias, BaseOperator, Context
    from airflow.sdk.execution_time.comms import AssetEventResult
    from airflow.sdk.types import OutletEventAccessorProtocol

    from airflow_mlops.core.calls import Request
    from airflow_mlops.core.window_text import Calendar
    from airflow_mlops.core.windows import Window

log = logging.getLogger("airflow_mlops.operators")
# Number of the newest asset events that are searched for an earlier event with the same request.
_EVENTS = 200
# The time that Airflow's scheduler may need to create a DAG run for an asset event.
_SCHEDULING = timedelta(minutes=2)


@dataclass(frozen=True)
class Delivery:
    """Whether and where a request for retraining was sent.

    :param sent: whether this task sends the request as an asset event
    :param asset: URI of the asset
    :param key: partition key of the event; ``None`` if nothing is sent, or if Airflow gives the event no key
    :param note: why the request is not sent, or why it might not start a training
    """

    sent: bool
    asset: str
    key: str | None = None
    note: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the delivery as fields of the result of MonitorOperator."""
        asset = self.asset if self.sent else None
        return {
            "request_sent": self.sent,
            "request_asset": asset,
            "request_key": self.key,
            "request_note": self.note,
        }


def send_request(
    task: BaseOperator,
    alias: AssetAlias,
    context: Context,
    result: dict[str, Any],
    extra: dict[str, Any],
    calendar: Calendar,
) -> Delivery:
    """Send an asset event that requests retraining, unless another task has sent the request.

    The partition key of the event is the monitored window. If Airflow has no active asset with this URI yet, the event
    has the partition key of the run instead. Airflow stores the event only when the task succeeds. The event of a
    failed try is therefore not stored, and the retry sends it again. If a user clears a task that has succeeded, a
    second event is sent and stored.

    :param task: the running task, whose outlets contain ``alias``. If the asset is active, it is added to these outlets
    :param alias: asset alias in the outlets of the task
    :param result: the result of the monitoring step, with ``model``, ``window`` and ``request``
    :param extra: additional fields of the event
    :param calendar: calendar of the DAG run
    """
    from airflow_mlops.core.windows import Window

    request = result["request"]
    uri = retrain_uri(result["model"])
    events = _events_of_active(uri, context)
    # A DAG that is scheduled on the asset can give the asset a name that differs from its URI.
    asset = Asset(uri) if events is None else Asset(name=events.key.name, uri=uri)
    earlier = _earlier_events(asset)
    if (other := _sent_by_another_task(earlier, request, context)) is not None:
        note = f"{other} has sent this request. To send it again, clear that task"
        log.info(
            "Retraining was already requested for this window: %s. No second event is sent: %s.", request["id"], note
        )
        return Delivery(False, uri, note=note)
    content = {**extra, "request": request}
    key: str | None = event_key(Window.model_validate(result["window"]), calendar)
    if events is None or key is None or key == calendar.key:
        # The event of an alias has the partition key of the run. Airflow also shows which alias leads to which asset.
        context["outlet_events"][alias].add(asset, extra=content)
        key = calendar.key
    else:
        events.extra.update(content)
        events.add_partitions(key)
        # Airflow stores only events of outlets. In the DAG file, the asset must not be an outlet, because Airflow would
        # send an event whenever the task succeeds.
        task.outlets = [*task.outlets, Asset.ref(uri=uri)]
    log.info("The request %s is sent to %s with the partition key %s.", request["id"], uri, key)
    if (doubt := _doubt(uri, earlier, is_active=events is not None)) is not None:
        log.warning("The request %s might not start a training: %s.", request["id"], doubt)
    return Delivery(True, uri, key, doubt)


def _doubt(uri: str, earlier: Sequence[AssetEventResult], *, is_active: bool) -> str | None:
    """Return why a request might not start a training; ``None`` if nothing indicates this.

    A task cannot find out from Airflow which DAGs are scheduled on an asset, or whether they are paused. A task can
    find out whether the asset is active, and which DAG runs earlier events have started. An asset is active if a DAG
    uses it, or if an asset alias has created an event of it.
    """
    if not is_active:
        return f"nothing listens to {uri}: no DAG is scheduled on this asset"
    if (window := _last_without_run(earlier)) is None:
        return None
    return (
        f"the last request, for {window}, started no DAG run: nothing listens to {uri}, or the DAGs that are scheduled on "
        "this asset are paused or busy"
    )


def event_key(window: Window, calendar: Calendar) -> str:
    """Return the partition key of the event about ``window``.

    This is the key of the run if the key names the window, otherwise the label of the window.
    """
    from pydantic import ValidationError

    from airflow_mlops.core.windows import Window

    if calendar.key is not None:
        try:
            if Window.model_validate(calendar.key, context={"calendar": calendar}) == window:
                return calendar.key
        except ValidationError:
            pass  # a key that is not a window, such as the name of a customer
    return window.label


def _events_of_active(uri: str, context: Context) -> OutletEventAccessorProtocol | None:
    """Return the accessor for events of an asset; ``None`` if the asset is not active."""
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType

    try:
        return context["outlet_events"][Asset.ref(uri=uri)]
    except AirflowRuntimeError as error:
        if error.error.error != ErrorType.ASSET_NOT_FOUND:
            raise
        return None


def _earlier_events(asset: Asset) -> Sequence[AssetEventResult]:
    # Reading events works only in a running task.
    from airflow.sdk.execution_time.context import InletEventsAccessor

    return InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri).ascending(False).limit(_EVENTS)


def _sent_by_another_task(earlier: Sequence[AssetEventResult], request: dict[str, Any], context: Context) -> str | None:
    """Return the task that sent ``request``, with its DAG run; ``None`` if no task other than this one sent it."""
    ti = context["ti"]
    own = (ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index)
    for event in earlier:
        sent = _request_in(event)
        # If the artifact store was emptied, a new request can have the id of an old one. Therefore the creation times
        # are compared as well.
        if all(sent.get(name) == request[name] for name in ("id", "created")):
            source = (event.source_dag_id, event.source_run_id, event.source_task_id, event.source_map_index)
            if source != own:
                return f"task {event.source_task_id} in run {event.source_run_id} of DAG {event.source_dag_id}"
    return None


def _last_without_run(earlier: Sequence[AssetEventResult]) -> str | None:
    """Return the window of the last request if no DAG run was created for it; otherwise ``None``.

    After a user has cleared the task, its own earlier request can be the last one. In a retry this is not possible,
    because Airflow stores the events of a task only when the task succeeds.

    :param earlier: asset events, newest first
    """
    before = datetime.now(timezone.utc) - _SCHEDULING
    sent = [event for event in earlier if _request_in(event).get("id") is not None]
    if not sent:
        return None
    # One request can have two events, because the plugin sends it again without a partition key.
    last = _request_in(sent[0])
    same = [event for event in sent if _request_in(event) == last]
    if any(event.created_dagruns or event.timestamp > before for event in same):
        return None
    return str(last["id"]).removeprefix(f"{last['model']}/")


def _request_in(event: AssetEventResult) -> dict[str, Any]:
    found = (event.extra or {}).get("request")
    return found if isinstance(found, dict) else {}


def triggering_requests(context: Context) -> list[Request]:
    """Return the requests for retraining that started the DAG run, oldest first; an empty list if there were none."""
    from pydantic import ValidationError

    from airflow_mlops.core.calls import Request

    events = context.get("triggering_asset_events") or {}
    # Airflow lists an event under the asset and under the aliases of the asset.
    found = [(asset, event) for asset in events if isinstance(asset, Asset) for event in events[asset]]
    requests = []
    for asset, event in sorted(found, key=lambda item: item[1].timestamp):
        content = (event.extra or {}).get("request")
        if content is None or asset.uri != (expected := retrain_uri(_model(content))):
            continue
        try:
            requests.append(Request.model_validate(content))
        except ValidationError as error:
            log.warning(
                "An event of asset %s contains an invalid request, which is ignored: %s",
                expected,
                error.errors()[0]["msg"],
            )
    return _last_of_each(requests)


def _last_of_each(requests: Sequence[Request]) -> list[Request]:
    """Return the distinct requests. A request that was sent several times is at the place of its last event."""
    last = {(request.id, request.created): number for number, request in enumerate(requests)}
    return [requests[number] for number in sorted(last.values())]


def newest_request(requests: Iterable[Request], model: str | None) -> Request | None:
    """Return the newest request for ``model``; ``None`` if there is no such request.

    :param requests: requests, oldest first
    :param model: name of the registered model; ``None`` for the newest request for any model
    """
    found = [request for request in requests if model is None or request.model == model]
    return found[-1] if found else None


def _model(request: Any) -> str:
    return str(request.get("model", "")) if isinstance(request, dict) else ""
