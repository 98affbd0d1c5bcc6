"""The process that runs an MLflow Project: ``python -m airflow_mlops.models.trainers.programs.mlproject FILE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow_mlops.core.parent import end_with_parent


def main() -> int:
    """Run the project that the settings file names, and return the exit status."""
    import mlflow.projects
    from mlflow.exceptions import ExecutionException

    end_with_parent()
    try:
        mlflow.projects.run(**json.loads(Path(sys.argv[1]).read_text()), backend="local", synchronous=True)
    except ExecutionException:
        # The output above ends with the error of the project.
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
