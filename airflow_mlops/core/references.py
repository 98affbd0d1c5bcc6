"""References to datasets and model versions, small enough for XCom."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.windows import Window


class DatasetRef(Model):
    """A reference to an immutable dataset in the artifact store.

    :param name: name of the dataset. The datasets of different windows have the same name
    :param id: SHA-256 of the dataset's name, window, columns, file hashes, parents and recorded details
    :param rows: number of rows in all split parts together
    :param window: time window of the rows; ``None`` for a snapshot
    :param parts: number of rows by split part: ``train`` and ``test``, or only ``data`` if the dataset is not split
    """

    name: Name
    id: str
    rows: int
    window: Window | None = None
    parts: dict[str, int] = Field(default_factory=dict)


def _as_dataset(value: Any) -> Any:
    # Accept the result of an upstream step as its dataset, as in `dataset=ingest.output`.
    if isinstance(value, dict) and "dataset" in value:
        return value["dataset"]
    return value


DatasetInput = Annotated[DatasetRef, BeforeValidator(_as_dataset)]


class ModelVersionRef(Model):
    """A reference to a model version in the MLflow model registry.

    :param model: name of the registered model
    :param version: number of the version
    :param run_id: id of the MLflow run that logged the version; empty if there is no such run
    """

    model: str
    version: int
    run_id: str

    def __str__(self) -> str:
        return f"{self.model} v{self.version}"


class MLflowTarget(Model):
    """The MLflow server and experiment that a step uses.

    :param conn_id: id of an Airflow connection of type ``mlflow``
    :param experiment: name of the experiment; by default the name of the model
    """

    conn_id: str = "mlflow_default"
    experiment: str | None = None


class DatasetSelection(Model):
    """The current datasets with one name, one for each time window.

    :param name: name of the datasets
    :param window: only time windows inside this one; by default all
    """

    name: Name
    window: Window | None = None


DatasetLike = Annotated[DatasetRef | DatasetSelection, BeforeValidator(_as_dataset)]


def _as_optional_dataset(value: Any) -> Any:
    # A skipped upstream task has no XCom, and a template that refers to it may render to an empty string.
    return _as_dataset(value) or None


OptionalDatasetLike = Annotated[DatasetRef | DatasetSelection | None, BeforeValidator(_as_optional_dataset)]
