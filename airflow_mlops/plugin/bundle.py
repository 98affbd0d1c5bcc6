"""The bundle of the React pages: where it is, and where Airflow's UI shows it.

``www/`` holds its source. ``www/dist/`` is built by ``make ui`` and committed, so an installation needs no Node.js.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

DIST = Path(__file__).parent / "www" / "dist"
# Airflow resolves these against the address at which its UI is mounted.
_STATIC = "mlops/static"

_PAGES: list[dict[str, Any]] = [
    {"name": "Models", "destination": "nav", "url_route": "mlops", "nav_top_level": True},
    {"name": "Models", "destination": "dag", "url_route": "mlops-models"},
    {"name": "MLOps", "destination": "task_instance", "url_route": "mlops-result"},
]


def react_apps() -> list[dict[str, Any]]:
    """Return the React apps that the plugin registers; none if the bundle has not been built.

    All apps are in one bundle. In Airflow 3.4 and newer, the tab of a task instance appears only for the operators of
    this package. Earlier releases show it for all operators.
    """
    if not (DIST / "models.js").is_file():
        return []
    apps = [
        {
            **page,
            "bundle_url": f"{_STATIC}/models.js",
            "icon": f"{_STATIC}/models.svg",
            "icon_dark_mode": f"{_STATIC}/models-dark.svg",
        }
        for page in _PAGES
    ]
    if tuple(int(part) for part in version("apache-airflow-core").split(".")[:2]) >= (3, 4):
        from airflow_mlops.operators import __all__ as names

        operators = [name for name in names if name.endswith("Operator")]
        apps[-1]["applies_to"] = {"operator_name": operators}
    return apps
