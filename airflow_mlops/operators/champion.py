"""What the asset ``mlops://MODEL/champion`` says: that the champion changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.sdk import Context


def champion_alias(model: str | None) -> AssetAlias:
    """The alias through which a task emits ``mlops://MODEL/champion``, which not every run of it does."""
    return AssetAlias(f"mlops-{model}-champion" if model and "{" not in model else "mlops-champion")


def emit_champion(alias: AssetAlias, context: Context, result: dict[str, Any]) -> None:
    """Say on the asset ``mlops://MODEL/champion`` that the champion changed."""
    champion, replaced = result["champion"], result["replaced"]
    extra: dict[str, Any] = {
        "version": champion["version"],
        "run_id": champion["run_id"],
        "replaced": replaced["version"] if replaced else None,
        "reason": result["reason"],
        **{key: result[key] for key in ("dataset_id", "metrics") if key in result},
    }
    context["outlet_events"][alias].add(Asset(f"mlops://{result['model']}/champion"), extra=extra)


def emit_if_lost(alias: AssetAlias, context: Context, result: dict[str, Any]) -> None:
    """Emit the event of an earlier change of the champion, if the asset's last event names another version.

    Airflow sends a task's events when it has succeeded. One that dies after the champion moved, and is not retried,
    sends none; the next task that decides about the model comes here.

    :param result: of a task that did not change the champion
    """
    # Only a running task has what this talks to.
    from airflow.sdk.execution_time.context import InletEventsAccessor

    champion = result["champion"]
    if champion is None:
        return
    asset = Asset(f"mlops://{result['model']}/champion")
    events = InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri).ascending(False).limit(1)
    said = (events[0].extra or {}).get("version") if len(events) else None
    if said == champion["version"]:
        return
    extra = {
        "version": champion["version"],
        "run_id": champion["run_id"],
        "replaced": said,
        "reason": "The champion changed, and the task or the person that changed it sent no event.",
    }
    context["outlet_events"][alias].add(asset, extra=extra)
