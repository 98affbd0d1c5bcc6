"""What Airflow loads as a plugin: the pages of the artifact store, and the preload of ``[mlops] preload``.

Every task's process loads this module, so it imports next to nothing.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk.plugins_manager import AirflowPlugin

from airflow_mlops.plugin import preload


class _Pages:
    """The FastAPI application, imported with the first request."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from airflow_mlops.plugin.pages import app

        await app(scope, receive, send)


class MLOpsPlugin(AirflowPlugin):
    """Airflow finds it by the entry point ``airflow.plugins``."""

    name = "mlops"
    fastapi_apps = [{"name": "mlops", "app": _Pages(), "url_prefix": "/mlops"}]  # noqa: RUF012 - as Airflow declares it
    listeners = [preload]  # noqa: RUF012
