"""Airflow's metadata database: migrated once for a version of Airflow, then copied, because a migration takes seconds."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "tests"


def create_database(file: Path) -> None:
    """Write a migrated SQLite database of the installed Airflow to ``file``.

    :raises subprocess.CalledProcessError: Airflow cannot migrate a database
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    migrated = FOLDER / f"airflow-{version('apache-airflow-core')}.db"
    # The other processes of the tests wait for the first.
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not migrated.exists():
            _migrate(migrated)
    shutil.copyfile(migrated, file)


def _migrate(file: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    with tempfile.TemporaryDirectory(dir=FOLDER) as home:
        made = Path(home) / "airflow.db"
        settings = {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{made}",
        }
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        subprocess.run(command, env={**kept, **settings}, check=True, capture_output=True, timeout=300)
        made.rename(file)
