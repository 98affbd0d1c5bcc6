"""The live Airflow that the files of this folder share with those of tests/integration/live."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.kubernetes.conftest import Cluster
from tests.support.live import LiveAirflow
from tests.support.shared_airflow import shared


@pytest.fixture(scope="package")
def airflow(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAirflow]:
    """A scheduler, a triggerer and workers with short heartbeats, so that a dead one is noticed soon."""
    running = shared(tmp_path_factory)
    running.connect("kubernetes_default", **json.loads(cluster.connection))
    others = {*running.dags.iterdir()}
    yield running
    # The modules that these DAGs import are removed together with the folder of the cluster.
    for file in {*running.dags.glob("*.py")} - others:
        file.unlink()
