"""The tags of MLflow runs."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.registry.environment import surroundings


def run_tags(
    model: str, seed: int, manifest: Manifest, provenance: Provenance, own: Mapping[str, str]
) -> dict[str, str]:
    """MLflow tags of a run: its data, the environment of its code, and the task it belongs to.

    :param own: the user's tags, which take precedence
    """
    tags = {
        "mlops.model": model,
        "mlops.dataset": manifest.id,
        "mlops.dataset_name": manifest.name,
        "mlops.window": manifest.window.label if manifest.window else "",
        "mlops.parents": ",".join(manifest.parents),
        "mlops.seed": str(seed),
        "mlops.dag_id": provenance.dag_id,
        "mlops.dag_run_id": provenance.run_id,
        "mlops.task_id": provenance.task_id,
        "mlops.map_index": str(provenance.map_index) if provenance.map_index >= 0 else "",
        **_asked(provenance.request(model)),
    }
    return {**{tag: value for tag, value in tags.items() if value}, **surroundings(), **own}


def _asked(request: Request | None) -> dict[str, str]:
    """What the tags say of the request for retraining that the run answers."""
    if request is None:
        return {}
    return {
        "mlops.retrain.request": request.id,
        "mlops.retrain.trigger": ", ".join(request.triggers),
        "mlops.retrain.reason": request.reason,
        "mlops.retrain.window": request.window.label,
    }
