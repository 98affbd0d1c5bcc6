"""What Airflow asks a provider for."""

from __future__ import annotations

from typing import Any

from airflow_mlops import __version__


def get_provider_info() -> dict[str, Any]:
    """Describe the provider, in the format of Airflow's ``provider_info`` schema."""
    return {
        "package-name": "airflow-mlops",
        "name": "MLOps",
        "description": "The machine-learning lifecycle as Airflow operators.",
        "versions": [__version__],
        "config": {
            "mlops": {
                "description": "Settings of the airflow-mlops provider.",
                "options": {
                    "artifacts": {
                        "description": "URL of the artifact store (file://, s3://, gs://, abfs://): datasets, results, reports and the ledger. "
                        "Empty means a folder ``mlops`` beside the DAGs folder.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://my-bucket/mlops",
                        "default": "",
                    },
                },
            }
        },
    }
