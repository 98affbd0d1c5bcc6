"""The tags of the MLflow run of a training or a search."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.registry.machine_tags import machine_tags


def run_tags(
    model: str, seed: int, manifest: Manifest, provenance: Provenance, user_tags: Mapping[str, str]
) -> dict[str, str]:
    """Return the MLflow tags of a run: the data, the machine, the Airflow task and the request for retraining.

    Tags without a value are left out.

    :param model: name of the registered model
    :param seed: random seed of the training or search
    :param manifest: manifest of the training set
    :param provenance: Airflow task that created the run
    :param user_tags: tags that the user has set. They override the other tags
    """
    tags = {
        "mlops.model": model,
        "mlops.dataset": manifest.id,
        "mlops.dataset_name": manifest.name,
        "mlops.window": manifest.window.label if manifest.window else "",
        "mlops.window_rule": (manifest.details.get("window_rule") or {}).get("rule", ""),
        "mlops.window_gaps": ", ".join(manifest.details.get("gaps", [])),
        "mlops.parents": ",".join(manifest.parents),
        "mlops.seed": str(seed),
        "mlops.dag_id": provenance.dag_id,
        "mlops.dag_run_id": provenance.run_id,
        "mlops.task_id": provenance.task_id,
        "mlops.map_index": str(provenance.map_index) if provenance.map_index >= 0 else "",
        **_request_tags(provenance.request(model)),
    }
    return {**{tag: value for tag, value in tags.items() if value}, **machine_tags(), **user_tags}


def _request_tags(request: Request | None) -> dict[str, str]:
    if request is None:
        return {}
    return {
        "mlops.retrain.request": request.id,
        "mlops.retrain.trigger": ", ".join(request.triggers),
        "mlops.retrain.reason": request.reason,
        "mlops.retrain.window": request.window.label,
    }
