"""The live Airflow that the files of this folder share with those of tests/integration/live."""

from __future__ import annotations

import json

import pytest

from tests.kubernetes.conftest import Cluster
from tests.support.live import LiveAirflow
from tests.support.shared_airflow import shared


@pytest.fixture(scope="package")
def airflow(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> LiveAirflow:
    """A scheduler, a triggerer and workers with short heartbeats, so that a dead one is noticed soon."""
    running = shared(tmp_path_factory)
    running.connect("kubernetes_default", **json.loads(cluster.connection))
    return running
