"""The process that runs an MLflow Project: ``python -m airflow_mlops.models.trainers.programs.mlproject FILE``."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from airflow_mlops.core.parent import end_with_parent


def main() -> int:
    """Run the project that the settings file names, and return the exit status."""
    import mlflow.projects
    from mlflow.exceptions import ExecutionException

    signal.signal(signal.SIGTERM, _end)
    end_with_parent()
    settings = json.loads(Path(sys.argv[1]).read_text())
    if settings["env_manager"] != "local":
        # Otherwise, the packages of the step would take precedence over those of the project's environment.
        os.environ.pop("PYTHONPATH", None)
    try:
        mlflow.projects.run(**settings, backend="local", synchronous=True)
    except ExecutionException:
        # The output above ends with the error of the project.
        return 1
    return 0


def _end(number: int, _: object) -> NoReturn:
    """Also end the program of the project. MLflow started it in the process group of this process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
