"""A temporary MLflow store, to which one program logs its model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import TrainingError
from airflow_mlops.core.secrets import mask
from airflow_mlops.registry.client import registry_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

# MLflow's file store needs no database, which would take ten seconds to create. MLflow 3.17 allows the file store only
# if this variable is set.
_CONSENT = "MLFLOW_ALLOW_FILE_STORE"


class TemporaryTracking:
    """A temporary MLflow store in files.

    :param folder: an existing folder, which is deleted by the caller
    """

    def __init__(self, folder: Path) -> None:
        # MLflow creates the folder, with the experiment Default.
        self._folder = folder / "mlruns"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a program logs to this store."""
        uri = self._folder.as_uri()
        return {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_REGISTRY_URI": uri,
            _CONSENT: "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "GIT_PYTHON_REFRESH": "quiet",
        }

    def model(self, program: str) -> Path:
        """Return the folder of the only model that the program logged.

        :param program: the program, as the first words of error messages
        :raises TrainingError: the program logged no model, or several
        """
        with self._client() as (client, experiments):
            found = [
                logged
                for experiment in experiments
                for logged in client.search_logged_models([experiment.experiment_id])
                # MLflow keeps models whose logging has failed.
                if logged.status != "FAILED"
            ]
            if len(found) != 1:
                names = ", ".join(sorted(repr(logged.name) for logged in found))
                raise TrainingError(
                    f"{program} logged {f'{len(found)} models ({names})' if found else 'no model'} to MLflow. Log exactly one, for "
                    "example with mlflow.sklearn.log_model(model, name='model'), and do not call mlflow.set_tracking_uri."
                )
            return self._local(found[0].artifact_location)

    def copy_logged(self, folder: Path) -> None:
        """Copy everything that the program logged besides the model.

        Parameters and metrics are written to ``logged.json``, and artifacts are copied as files.

        :param folder: an existing folder
        """
        with self._client() as (client, experiments):
            runs = client.search_runs([experiment.experiment_id for experiment in experiments])
            logged: list[dict[str, Any]] = []
            for run in runs:
                logged.append({"params": run.data.params, "metrics": run.data.metrics})
                artifacts = self._local(run.info.artifact_uri)
                if artifacts.is_dir() and any(artifacts.iterdir()):
                    shutil.copytree(artifacts, folder / "artifacts", dirs_exist_ok=True)
        if logged:
            (folder / "logged.json").write_text(mask(json.dumps(logged, indent=1)))

    def _local(self, uri: str) -> Path:
        from mlflow.utils.file_utils import local_file_uri_to_path

        return Path(local_file_uri_to_path(uri))

    @contextmanager
    def _client(self) -> Iterator[tuple[MlflowClient, list[Experiment]]]:
        from mlflow import MlflowClient

        before = os.environ.get(_CONSENT)
        os.environ[_CONSENT] = "true"
        try:
            with registry_errors("The program's MLflow store cannot be read"):
                client = MlflowClient(self._folder.as_uri(), self._folder.as_uri())
                yield client, list(client.search_experiments())
        finally:
            if before is None:
                del os.environ[_CONSENT]
            else:
                os.environ[_CONSENT] = before
