"""Functions that read the ``[mlops]`` section of Airflow's configuration."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import conf

from airflow_mlops.core.sizes import MEMORY_VARIABLE
from airflow_mlops.registry.cache import DEFAULT_SIZE, SIZE_VARIABLE
from airflow_mlops.registry.signatures import SIGNING_VARIABLE, VERIFYING_VARIABLE


def default_store() -> str:
    """Return the URL of the artifact store: ``[mlops] artifacts``.

    If the setting is empty, this is the folder ``mlops`` next to the DAGs folder, or ``~/airflow/mlops`` if no DAGs
    folder is configured.
    """
    configured: str = conf.get("mlops", "artifacts", fallback="") or ""
    if configured:
        return configured
    dags = conf.get("core", "dags_folder", fallback="")
    return f"file://{Path(dags).parent / 'mlops' if dags else Path.home() / 'airflow' / 'mlops'}"


def prometheus_textfile() -> str:
    """Return the folder from which Prometheus's node exporter reads metrics: ``[mlops] prometheus_textfile``.

    If the setting is empty, an empty string is returned.
    """
    return conf.get("mlops", "prometheus_textfile", fallback="") or ""


def prometheus_pushgateway() -> str:
    """Return the address of the Prometheus Pushgateway: ``[mlops] prometheus_pushgateway``, by default empty."""
    return conf.get("mlops", "prometheus_pushgateway", fallback="") or ""


def webhook_conn_id() -> str:
    """Return the id of the connection with the secret of MLflow's webhook: ``[mlops] webhook_conn_id``.

    If the setting is empty, an empty string is returned, and no webhook is accepted.
    """
    return conf.get("mlops", "webhook_conn_id", fallback="") or ""


def step_environment() -> dict[str, str]:
    """Return the environment variables that pass settings to the process of a step, by name.

    The settings are ``cache_size`` (by default 10GB), ``memory`` (by default empty: see
    :func:`airflow_mlops.data.relational.default_memory`), ``signing_key`` and ``verifying_key`` (by default empty), all in
    ``[mlops]``.
    """
    return {
        SIZE_VARIABLE: conf.get("mlops", "cache_size", fallback="") or DEFAULT_SIZE,
        MEMORY_VARIABLE: conf.get("mlops", "memory", fallback="") or "",
        # An empty setting must not turn off a check that the environment variables of the machine turn on.
        SIGNING_VARIABLE: conf.get("mlops", "signing_key", fallback="") or os.environ.get(SIGNING_VARIABLE, ""),
        VERIFYING_VARIABLE: conf.get("mlops", "verifying_key", fallback="") or os.environ.get(VERIFYING_VARIABLE, ""),
    }


def preload() -> list[str]:
    """Return the names of the modules that the scheduler imports before it starts its workers: ``[mlops] preload``."""
    names: str = conf.get("mlops", "preload", fallback="") or ""
    return [name.strip() for name in names.split(",") if name.strip()]
