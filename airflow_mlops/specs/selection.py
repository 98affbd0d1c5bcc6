"""Fields that take either a dataset or the name of one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from airflow_mlops.specs.base import DatasetRef, Model, Name, Window


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
