"""Registers the plugin of airflow-mlops if the package is on the path but not installed; see the README in this folder.

An installed package registers its plugin by an entry point, and then this file registers nothing: Airflow reports a plugin
that is registered twice as an import error, and in task processes does not load the plugins after it.
"""

from __future__ import annotations

from importlib.metadata import entry_points

if not any(found.value.startswith("airflow_mlops.plugin:") for found in entry_points(group="airflow.plugins")):
    from airflow_mlops.plugin import MLOpsPlugin  # noqa: F401 - Airflow searches the names of this module
