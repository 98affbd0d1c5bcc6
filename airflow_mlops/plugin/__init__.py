"""The Airflow plugin, which adds pages to Airflow's UI, serves pages of the artifact store and registers listeners.

The listeners import the modules of ``[mlops] preload``, and start DAGs without partitions on requests for
retraining and on changes of the champion.

Every task process imports this module, so it must import quickly.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk.plugins_manager import AirflowPlugin

import airflow_mlops.core.forks  # noqa: F401 - before processes are forked
from airflow_mlops.plugin import keyless_events, preload
from airflow_mlops.plugin.bundle import react_apps


class _Pages:
    """The FastAPI application for the pages. It is imported on the first request."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from airflow_mlops.plugin.pages import app

        await app(scope, receive, send)


class MLOpsPlugin(AirflowPlugin):
    """The plugin ``mlops``, registered by the entry point ``airflow.plugins``."""

    name = "mlops"
    fastapi_apps = [{"name": "mlops", "app": _Pages(), "url_prefix": "/mlops"}]  # noqa: RUF012 - as Airflow declares it
    listeners = [preload, keyless_events]  # noqa: RUF012
    react_apps = react_apps()
