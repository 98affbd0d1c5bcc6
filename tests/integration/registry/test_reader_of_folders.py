"""The reader reads the files of runs from a folder of this machine, as MLflow's client does."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow.exceptions import MlflowException

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.registry import run_files, versions
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.reader import Reader
from tests.integration.registry.test_reader import (
    alone,
    light,
    test_runs_versions_and_files_are_those_of_mlflows_client,
    version,
)

# The imported test also runs in its own module, for files on the server.
__all__ = ["alone", "light", "test_runs_versions_and_files_are_those_of_mlflows_client", "version"]
pytestmark = pytest.mark.usefixtures("files_in_a_folder")


@pytest.fixture
def folder(client, version):
    """The folder with the files of the version's run."""
    uri = urlsplit(client.get_run(version.run_id).info.artifact_uri)
    assert uri.scheme == "file"
    return Path(unquote(uri.path))


def test_no_file_is_requested_from_the_server(alone, version, folder, monkeypatch, tmp_path):
    requests, send = [], Reader._open
    monkeypatch.setattr(
        Reader,
        "_open",
        lambda self, *arguments, **options: requests.append(arguments[1]) or send(self, *arguments, **options),
    )
    assert run_files.paths(alone, version.run_id) == {"evaluation", "model"}
    assert run_files.read(alone, version.run_id, "evaluation/empty") == b""
    assert run_files.download(alone, version.run_id, "evaluation", tmp_path).is_dir()
    versions.download_into(alone, version, tmp_path / "model")
    assert [path.partition("?")[0] for path in requests] == [
        "mlflow/runs/get",
        "mlflow/model-versions/get-download-uri",
    ]


def test_a_file_that_is_just_being_written_is_not_listed_and_a_missing_one_is_an_error(
    client, light, version, folder, tmp_path
):
    (folder / "evaluation" / ".artifact.uploading.1").write_text("half of")
    expected = {f"evaluation/{name}" for name in ("evaluation.json", "inner", "empty")}
    assert run_files.paths(client, version.run_id, "evaluation") == expected
    assert run_files.paths(light, version.run_id, "evaluation") == expected
    for found in (client, light):
        with pytest.raises(RegistryError) as raised, registry_errors("The file cannot be read"):
            run_files.read(found, version.run_id, "evaluation/other.json")
        assert isinstance(raised.value.__cause__, MlflowException)
        with pytest.raises(RegistryError), registry_errors("The file cannot be read"):
            run_files.download(found, version.run_id, "evaluation/other.json", tmp_path)
