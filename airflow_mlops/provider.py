"""What Airflow asks a provider for."""

from __future__ import annotations

from typing import Any

from airflow_mlops import __version__

_NAME = "MLOps"
_STAGES = (
    "ingest",
    "validate",
    "materialize_features",
    "training_set",
    "search",
    "train",
    "evaluate",
    "promote",
    "rollback",
    "score",
    "join_labels",
    "profile",
    "monitor",
    "purge_predictions",
)


def get_provider_info() -> dict[str, Any]:
    """Describe the provider, in the format of Airflow's ``provider_info`` schema."""
    return {
        "package-name": "airflow-mlops",
        "name": _NAME,
        "description": "The machine-learning lifecycle as Airflow operators.",
        "versions": [__version__],
        "integrations": [{"integration-name": _NAME, "tags": ["software"]}],
        "operators": [
            {"integration-name": _NAME, "python-modules": [f"airflow_mlops.operators.{stage}" for stage in _STAGES]}
        ],
        "sensors": [
            {
                "integration-name": _NAME,
                "python-modules": ["airflow_mlops.sensors.feature_freshness", "airflow_mlops.sensors.model_health"],
            }
        ],
        "triggers": [
            {
                "integration-name": _NAME,
                "python-modules": [
                    "airflow_mlops.compute.kubernetes.trigger",
                    "airflow_mlops.triggers.report",
                    "airflow_mlops.triggers.sensing",
                    "airflow_mlops.compute.kubernetes.train_jobs.trigger",
                ],
            }
        ],
        "hooks": [{"integration-name": _NAME, "python-modules": ["airflow_mlops.hooks.mlflow"]}],
        "connection-types": [
            {
                "connection-type": "mlflow",
                "hook-class-name": "airflow_mlops.hooks.mlflow.MLflowHook",
                "hook-name": "MLflow",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    "relabeling": {"host": "Tracking URI", "login": "User name", "password": "Password or token"},
                    "placeholders": {
                        "host": "https://mlflow.example.com, sqlite:////srv/mlflow.db or databricks",
                        "password": "without a user name it is a bearer token",
                    },
                },
                "conn-fields": {
                    "ui_url": {
                        "label": "Address of the MLflow pages",
                        "schema": {"type": ["string", "null"]},
                        "description": "Where links lead, if a browser does not find MLflow at the tracking URI.",
                    },
                },
            }
        ],
        "cli": ["airflow_mlops.cli.definition.get_cli_commands"],
        "extra-links": [
            "airflow_mlops.links.artifacts.DataDocsLink",
            "airflow_mlops.links.artifacts.ReportLink",
            "airflow_mlops.links.mlflow.MLflowRunLink",
        ],
        # Airflow finds the plugin by its entry point: under lazy discovery, the default, it skips this list.
        "plugins": [{"name": "mlops", "plugin-class": "airflow_mlops.plugin.MLOpsPlugin"}],
        "config": {
            "mlops": {
                "description": "Settings of the airflow-mlops provider.",
                "options": {
                    "artifacts": {
                        "description": "URL of the artifact store (file://, s3://, gs://, abfs://): datasets, results, "
                        "reports and the ledger. Empty means a folder ``mlops`` beside the DAGs folder.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://my-bucket/mlops",
                        "default": "",
                    },
                    "run_on": {
                        "description": "Where the steps of operators run that have no ``run_on=``: ``Worker``, or JSON "
                        "with the arguments of ``Process`` or ``Pod``.",
                        "version_added": "0.2.0",
                        "type": "string",
                        "example": '{"Pod": {"image": "airflow-mlops-runner:0.1.0-cpu", "env_from": ["mlops"]}}',
                        "default": "",
                    },
                    "preload": {
                        "description": "Modules, separated by commas, that the scheduler imports once before "
                        "LocalExecutor forks its workers, so that no task has to. It costs the scheduler's memory and "
                        "start, and what changes in these modules needs a restart.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "airflow_mlops.operators.train,pyarrow.dataset,pandas,sklearn.ensemble,mlflow",
                        "default": "",
                    },
                    "prometheus_textfile": {
                        "description": "A folder that Prometheus's node exporter reads (its option "
                        "``--collector.textfile.directory``): what monitoring, scoring and promotion found is written "
                        "there, one file for each model and stage. Empty means none.",
                        "version_added": "0.2.0",
                        "type": "string",
                        "example": "/var/lib/prometheus/node-exporter",
                        "default": "",
                    },
                    "prometheus_pushgateway": {
                        "description": "Address of a Prometheus Pushgateway, which gets what monitoring, scoring and "
                        "promotion found. Empty means none.",
                        "version_added": "0.2.0",
                        "type": "string",
                        "example": "http://pushgateway.example:9091",
                        "default": "",
                    },
                },
            }
        },
    }
