"""The live Airflow that the files of this folder share with those of tests/kubernetes/live.

Each file writes its DAGs into ``airflow.dags``, and its ids of DAGs and names of datasets are its own.
"""

from __future__ import annotations

import pytest

from tests.support.live import LiveAirflow
from tests.support.shared_airflow import shared


# The tests of tests/kubernetes/live run between those of two files of this folder, so this is no fixture of the package.
@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory, mlflow_server: str) -> LiveAirflow:
    """A whole Airflow with users, short heartbeats and a connection to MLflow."""
    running = shared(tmp_path_factory)
    running.connect("mlflow_default", conn_type="mlflow", host=mlflow_server)
    return running
