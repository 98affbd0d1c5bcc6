"""The files and tags that the MLflow run of a refit shares with the run of the judged version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.names import SEARCH_TAG
from airflow_mlops.registry.origins import CODE_VERSION

if TYPE_CHECKING:
    from mlflow import MlflowClient

# File of the MLflow run of a refit: the result of the checks.
CHECKS_FILE = "refit.json"
# Tags of the judged version's run that also apply to the refit.
_KEPT = (CODE_VERSION, SEARCH_TAG)


def copied(client: MlflowClient, ref: ModelVersionRef) -> tuple[str, dict[str, str]]:
    """Return the name of the experiment and the tags that a refit copies from the MLflow run of the judged version."""
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        found = client.get_run(ref.run_id)
        experiment = client.get_experiment(found.info.experiment_id).name
    ours = ("mlops.", "mlflow.")
    return experiment, {
        name: value for name, value in found.data.tags.items() if name in _KEPT or not name.startswith(ours)
    }
