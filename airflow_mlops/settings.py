"""The ``[mlops]`` section of Airflow's configuration."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import conf


def default_store() -> str:
    """The URL of the artifact store: ``[mlops] artifacts``, or the folder ``mlops`` beside the DAGs folder."""
    configured: str = conf.get("mlops", "artifacts", fallback="") or ""
    if configured:
        return configured
    dags = conf.get("core", "dags_folder", fallback="")
    return f"file://{Path(dags).parent / 'mlops' if dags else Path.home() / 'airflow' / 'mlops'}"


def prometheus_textfile() -> str:
    """The folder of the node exporter's textfile collector: ``[mlops] prometheus_textfile``. Empty if it is not used."""
    return conf.get("mlops", "prometheus_textfile", fallback="") or ""


def prometheus_pushgateway() -> str:
    """The address of the Pushgateway: ``[mlops] prometheus_pushgateway``. Empty if it is not used."""
    return conf.get("mlops", "prometheus_pushgateway", fallback="") or ""


def preload() -> list[str]:
    """Names of the modules that the scheduler imports before it starts its workers: ``[mlops] preload``."""
    names: str = conf.get("mlops", "preload", fallback="") or ""
    return [name.strip() for name in names.split(",") if name.strip()]
