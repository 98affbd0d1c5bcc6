"""Ingestion of files in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.data.datasets import Manifest, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.spec import IngestResult, IngestSpec
from airflow_mlops.stages.ingest.step import run

if TYPE_CHECKING:
    import pyarrow as pa


class Ingestion:
    """Ingests files and opens the datasets.

    :ivar result: result of the last ingestion
    """

    result: IngestResult

    def __init__(self, context: StepContext) -> None:
        self.context = context

    def run(self, files: Any, **options: Any) -> IngestResult:
        files = [str(file) for file in files] if isinstance(files, list) else [str(files)]
        spec = parse(IngestSpec, {"name": "raw", "files": files, **options}, "Step 'ingest'")
        self.result = run(spec, self.context)
        return self.result

    def table(self, files: Any, **options: Any) -> pa.Table:
        return open_dataset(self.context.store, self.run(files, **options).dataset).table()

    def rows(self, files: Any, **options: Any) -> list[dict[str, Any]]:
        return self.table(files, **options).to_pylist()

    def manifest(self) -> Manifest:
        return open_dataset(self.context.store, self.result.dataset).manifest


@pytest.fixture
def ingestion(tmp_path) -> Ingestion:
    return Ingestion(StepContext(ArtifactStore(f"file://{tmp_path}/store")))


@pytest.fixture
def written(tmp_path) -> Callable[..., str]:
    """Return a function that writes a file and returns its path."""

    def write(name: str, content: bytes | str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write
