"""The metadata of this provider for Airflow."""

from __future__ import annotations

from typing import Any

from airflow_mlops import __version__

_NAME = "MLOps"
_STAGES = (
    "ingest",
    "validate",
    "materialize_features",
    "forecast_rows",
    "training_set",
    "search",
    "train",
    "evaluate",
    "refit",
    "promote",
    "rollback",
    "transfer",
    "deploy",
    "undeploy",
    "canary",
    "score",
    "compare_features",
    "join_labels",
    "profile",
    "monitor",
    "purge_predictions",
)


def get_provider_info() -> dict[str, Any]:
    """Return the metadata of this provider, in the format of Airflow's ``provider_info`` schema."""
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
                    "airflow_mlops.triggers.registry",
                    "airflow_mlops.triggers.report",
                    "airflow_mlops.triggers.sensing",
                    "airflow_mlops.compute.kubernetes.serving.trigger",
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
                        "password": "a bearer token if the user name is empty",
                    },
                },
                "conn-fields": {
                    "ui_url": {
                        "label": "Address of the MLflow pages",
                        "schema": {"type": ["string", "null"]},
                        "description": "The address of MLflow for browsers, if it differs from the tracking URI.",
                    },
                    "artifacts": {
                        "label": "Artifact store",
                        "schema": {"type": ["string", "null"]},
                        "description": "URL of the artifact store with the ledgers of this registry, for TransferModelOperator "
                        "and `airflow mlops promote`, if it differs from [mlops] artifacts.",
                    },
                },
            }
        ],
        "cli": ["airflow_mlops.cli.definition.get_cli_commands"],
        "extra-links": [
            "airflow_mlops.links.artifacts.DataDocsLink",
            "airflow_mlops.links.artifacts.ReportLink",
            "airflow_mlops.links.endpoint.EndpointLink",
            "airflow_mlops.links.mlflow.MLflowRunLink",
        ],
        # With lazy discovery, which is the default, Airflow skips this list and finds the plugin by its entry point.
        "plugins": [{"name": "mlops", "plugin-class": "airflow_mlops.plugin.MLOpsPlugin"}],
        "config": {
            "mlops": {
                "description": "Settings of the airflow-mlops provider.",
                "options": {
                    "artifacts": {
                        "description": "URL of the artifact store (file://, s3://, gs://, abfs://): datasets, results, "
                        "reports and the ledger. By default, the folder ``mlops`` next to the DAGs folder.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://my-bucket/mlops",
                        "default": "",
                    },
                    "run_on": {
                        "description": "The default of the operators' parameter ``run_on``, which describes where steps "
                        "run: ``Worker``, or JSON with the arguments of ``Process``, ``Pod``, ``Ray`` or ``Spark``.",
                        "version_added": "0.2.0",
                        "type": "string",
                        "example": '{"Pod": {"image": "airflow-mlops-runner:0.1.0-cpu", "env_from": ["mlops"]}}',
                        "default": "",
                    },
                    "cache_size": {
                        "description": "Size of the cache of models that each worker downloads from MLflow, such as "
                        "``10GB`` or ``500MB``. Above this size, the least recently used models are removed.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "50GB",
                        "default": "10GB",
                    },
                    "memory": {
                        "description": "Memory that the relational work of a step (DuckDB) may use, such as ``4GB``, "
                        "before it continues in temporary files in TMPDIR. By default, half of the memory that the "
                        "process may use (the memory of the machine, or the limit of its container), but at most 1 GB for "
                        "training sets, 500 MB for joins of labels and 300 MB for repeated values in a validation with up "
                        "to four CPUs, and in proportion with more.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "4GB",
                        "default": "",
                    },
                    "signing_key": {
                        "description": "File with the private key of an elliptic curve (PEM), with which steps sign the entries of "
                        "the ledger. By default, entries are not signed.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/etc/mlops/signing.pem",
                        "default": "",
                    },
                    "verifying_key": {
                        "description": "File with the public key (PEM) of ``signing_key``. If it is set, only champions whose "
                        "promotion was signed with this key are used. By default, signatures are not checked.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/etc/mlops/verifying.pem",
                        "default": "",
                    },
                    "preload": {
                        "description": "Modules, separated by commas, that the scheduler imports before LocalExecutor "
                        "forks its workers, so that the tasks need not import them. The scheduler takes longer to start "
                        "and needs more memory, and changes of these modules take effect only after a restart.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "airflow_mlops.operators.train,pyarrow.dataset,pandas,sklearn.ensemble,mlflow",
                        "default": "",
                    },
                    "webhook_conn_id": {
                        "description": "Id of an Airflow connection whose password is the secret of MLflow's webhook. Airflow's "
                        "API server then accepts the webhook at ``/mlops/webhooks/mlflow``. The extra ``mlflow_conn_id`` is "
                        "the connection to this MLflow, by default ``mlflow_default``. By default, no webhook is accepted.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "mlflow_webhook",
                        "default": "",
                    },
                    "prometheus_textfile": {
                        "description": "The folder from which Prometheus's node exporter reads metrics (its option "
                        "``--collector.textfile.directory``). The metrics of monitoring, scoring and promotion are "
                        "written to this folder, one file for each model and stage. By default, no files are written.",
                        "version_added": "0.2.0",
                        "type": "string",
                        "example": "/var/lib/prometheus/node-exporter",
                        "default": "",
                    },
                    "prometheus_pushgateway": {
                        "description": "Address of a Prometheus Pushgateway that receives the metrics of monitoring, "
                        "scoring and promotion. By default, no metrics are pushed.",
                        "version_added": "0.2.0",
                        "type": "string",
                        "example": "http://pushgateway.example:9091",
                        "default": "",
                    },
                },
            }
        },
    }
