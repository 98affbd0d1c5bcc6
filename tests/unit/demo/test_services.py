"""The processes of the demo."""

from __future__ import annotations

from pathlib import Path

from demo.services import Services
from demo.settings import Settings


def test_services_listen_on_the_loopback_address_only(tmp_path: Path):
    settings = Settings(tmp_path, airflow_port=8081, mlflow_port=5001, serving_port=8091, months=("2013-01",))
    commands = Services(settings)._commands()
    assert "--host 127.0.0.1" in " ".join(commands["mlflow"])
    assert settings.environment()["AIRFLOW__API__HOST"] == "127.0.0.1"
    # Their log servers have no option for an address.
    assert all("--skip-serve-logs" in commands[name] for name in ("scheduler", "triggerer"))
