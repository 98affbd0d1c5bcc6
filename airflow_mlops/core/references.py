"""References to datasets and model versions, small enough for XCom."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.windows import Window


class DatasetRef(Model):
    """A reference to an immutable dataset in the artifact store, small enough for XCom.

    :param name: name of the dataset, which all its windows share
    :param id: SHA-256 of the dataset's name, window, schema, hashes of files, and parents
    :param rows: number of rows in all parts together
    :param window: the time that the rows belong to, or ``None``
    :param parts: number of rows of each part: ``data``, or ``train`` and ``test`` if the dataset is split
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
    :param run_id: the MLflow run that made the version; empty if there is none
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
    """The present datasets of one name, for all windows inside ``window`` or, without it, for all windows."""

    name: Name
    window: Window | None = None


DatasetLike = Annotated[DatasetRef | DatasetSelection, BeforeValidator(_as_dataset)]


def _as_optional_dataset(value: Any) -> Any:
    # A skipped upstream task has no XCom, or a template of it renders to an empty text.
    return _as_dataset(value) or None


OptionalDatasetLike = Annotated[DatasetRef | DatasetSelection | None, BeforeValidator(_as_optional_dataset)]
