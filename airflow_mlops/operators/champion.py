"""The asset ``mlops://MODEL/champion``, which has an event for each change of the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.sdk import Context


def champion_alias(model: str | None) -> AssetAlias:
    """The alias through which a task emits ``mlops://MODEL/champion``. An alias, because not every run emits it."""
    return AssetAlias(f"mlops-{model}-champion" if model and "{" not in model else "mlops-champion")


def emit_champion(alias: AssetAlias, context: Context, result: dict[str, Any]) -> None:
    """Emit the event of the change of the champion that ``result`` describes."""
    replaced = result["replaced"]
    measured = {key: result[key] for key in ("dataset_id", "metrics") if key in result}
    _emit(alias, context, result, replaced["version"] if replaced else None, result["reason"], **measured)


def emit_missing_event(alias: AssetAlias, context: Context, result: dict[str, Any]) -> None:
    """Emit the event of an earlier change of the champion, if the asset's last event names another version.

    Airflow stores the events of a task when the task succeeds. A task that fails after it changed the champion, and is
    not retried, therefore emits none. The next task that decides about the model calls this function.

    :param result: result of a task that did not change the champion
    """
    # Works only in a running task.
    from airflow.sdk.execution_time.context import InletEventsAccessor

    champion = result["champion"]
    if champion is None:
        return
    asset = _asset(result)
    events = InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri).ascending(False).limit(1)
    last = (events[0].extra or {}).get("version") if len(events) else None
    if last != champion["version"]:
        _emit(alias, context, result, last, "The champion changed, and whoever changed it sent no event.")


def _emit(
    alias: AssetAlias, context: Context, result: dict[str, Any], replaced: Any, reason: str, **measured: Any
) -> None:
    champion = result["champion"]
    extra = {"version": champion["version"], "run_id": champion["run_id"], "replaced": replaced, "reason": reason}
    context["outlet_events"][alias].add(_asset(result), extra={**extra, **measured})


def _asset(result: dict[str, Any]) -> Asset:
    return Asset(f"mlops://{result['model']}/champion")
