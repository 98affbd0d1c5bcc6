"""Registers the plugin of airflow-mlops where the package is on the path and not installed: see the README beside this.

An installed package registers itself by its entry point. Airflow reports a plugin that comes twice as an import error,
and in a task's process the second one keeps out the plugins after it; so where there is an entry point, this adds none.
"""

from __future__ import annotations

from importlib.metadata import entry_points

if not any(found.value.startswith("airflow_mlops.plugin:") for found in entry_points(group="airflow.plugins")):
    from airflow_mlops.plugin import MLOpsPlugin  # noqa: F401 - Airflow looks through this module's names
