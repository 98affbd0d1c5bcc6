"""References to datasets and model versions, small enough for XCom."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.windows import Window


class DatasetRef(Model):
    """Points at an immutable dataset in the artifact store; small enough for XCom.

    :param name: the dataset's name, shared by all its windows
    :param id: SHA-256 over the dataset's name, window, schema, files' hashes and parents
    :param rows: the number of rows, all parts together
    :param window: the time the rows belong to, if the dataset has one
    :param parts: rows per part; a plain dataset has the one part ``data``, a split one ``train`` and ``test``
    """

    name: Name
    id: str
    rows: int
    window: Window | None = None
    parts: dict[str, int] = Field(default_factory=dict)


def _as_dataset(value: Any) -> Any:
    # The result of an upstream step stands for the dataset in it, so `dataset=ingest.output` just works.
    if isinstance(value, dict) and "dataset" in value:
        return value["dataset"]
    return value


DatasetInput = Annotated[DatasetRef, BeforeValidator(_as_dataset)]


class ModelVersionRef(Model):
    """Points at a version in the MLflow model registry.

    :param model: the registered model's name
    :param version: its version
    :param run_id: the MLflow run that made it; empty where none did
    """

    model: str
    version: int
    run_id: str

    def __str__(self) -> str:
        return f"{self.model} v{self.version}"


class MLflowTarget(Model):
    """Which MLflow a step talks to: an Airflow connection of type ``mlflow``, or a plain tracking URI.

    Neither given, the step uses the connection ``mlflow_default``.
    """

    conn_id: str = "mlflow_default"
    experiment: str | None = None


class DatasetSelection(Model):
    """The present datasets of one name, for all windows that lie inside ``window``, or for all there are."""

    name: Name
    window: Window | None = None


def _as_selection(value: Any) -> Any:
    # As with DatasetInput, the result of an upstream step stands for the dataset in it.
    return value["dataset"] if isinstance(value, dict) and "dataset" in value else value


DatasetLike = Annotated[DatasetRef | DatasetSelection, BeforeValidator(_as_selection)]


def no_dataset(value: Any) -> Any:
    """``None`` for what a skipped upstream task leaves behind: no XCom, or a template that renders to nothing."""
    if isinstance(value, dict) and "dataset" in value:
        value = value["dataset"]
    return value or None


OptionalDatasetLike = Annotated[DatasetRef | DatasetSelection | None, BeforeValidator(no_dataset)]
