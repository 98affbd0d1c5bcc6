"""The datasets of these tests."""

from __future__ import annotations

import pytest

from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from tests.support.networks import rows


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path_factory.mktemp('torch')}/store")


@pytest.fixture(scope="module")
def dataset(store):
    with DatasetWriter(store, "rows") as writer:
        for part in range(3):
            writer.write(rows(part), "train")
        return open_dataset(store, writer.commit()[0].ref)
