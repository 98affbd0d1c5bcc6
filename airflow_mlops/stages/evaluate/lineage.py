"""The tags of a version's MLflow run that the model card shows."""

from __future__ import annotations

from airflow_mlops.registry.names import SEARCH_TAG

# Tags of the version's MLflow run, and their titles on the card.
LINEAGE = {
    "mlops.retrain.request": "Request for retraining",
    "mlops.retrain.reason": "Reason of the request",
    "mlops.dag_id": "DAG",
    "mlops.dag_run_id": "DAG run",
    "mlops.task_id": "Task",
    "mlops.map_index": "Map index",
    "mlops.trainer": "Trainer",
    "mlops.window_rule": "Rule for the window of the training set",
    "mlops.seed": "Seed",
    SEARCH_TAG: "MLflow run of the search",
    "mlops.package": "Version of airflow-mlops",
    "mlops.code": "Hash of the trainer's code",
    "mlflow.source.git.commit": "Git commit",
    "mlops.environment": "Hash of Python and its packages",
    "mlops.image": "Image",
    "mlops.image_digest": "Digest of the image",
    "mlops.gpu": "GPU",
}
