"""References to datasets and model versions, small enough for XCom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.secrets import url_credentials
from airflow_mlops.core.windows import Moment, Window


class DatasetRef(Model):
    """A reference to an immutable dataset in the artifact store.

    :param name: name of the dataset. Datasets of different windows share one name
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


class DatasetSelection(Model):
    """A selection of datasets by name: the current dataset of each time window, or one snapshot.

    A snapshot is a dataset without a time window.

    :param name: name of the datasets
    :param window: time window of the rows. If only a part of a dataset's window lies in ``window``, the rows are
        selected by their time. By default all windows or, if no dataset with this name has a window, the newest
        snapshot
    :param at: time for which the snapshot is read: the last snapshot written at or before this time
    :param gaps: what happens if a part of ``window`` is not covered by any dataset. ``fail`` (default) raises an error
        that names the missing part. ``allow`` reads the existing datasets and records the missing part
    :param time_column: column with the time of each row, used if only a part of a dataset's window lies in ``window``.
        By default, the time column that the dataset records
    """

    name: Name
    window: Window | None = None
    at: Moment | None = None
    gaps: Literal["fail", "allow"] = "fail"
    time_column: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSelection:
        if self.at is not None and self.window is not None:
            raise ValueError(
                "`at` and `window` are both set, but `at` selects a snapshot, which has no window. Remove one of them."
            )
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The fingerprint of a spec stays the same when this class gets another optional field.
        found: dict[str, Any] = serialize(self)
        return {key: value for key, value in found.items() if key in _ALWAYS or key in self.model_fields_set}


_ALWAYS = ("name", "window")


def _as_dataset(value: Any) -> Any:
    """Convert the value of a dataset parameter to a reference or a selection, or to a list of them.

    The value can be a name, the result of an upstream step (``dataset=ingest.output``), or the results of a mapped
    step.
    """
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and "dataset" in value:
        return _as_dataset(value["dataset"])
    if isinstance(value, Sequence):
        # An instance of a mapped task that was skipped has no result.
        found = [_as_dataset(item) for item in value if item is not None]
        found = [item for item in found if item is not None]
        return found[0] if len(found) == 1 else found
    return value


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "datasets"
    found = value.keys() if isinstance(value, dict) else type(value).model_fields if isinstance(value, Model) else ()
    return "reference" if "id" in found else "selection"


_Single = Annotated[DatasetRef, Tag("reference")] | Annotated[DatasetSelection, Tag("selection")]


def _as_one_dataset(value: Any) -> Any:
    found = _as_dataset(value)
    if isinstance(found, list):
        raise ValueError(
            f"This step reads one training set, but {len(found)} are given. Their splits cannot be combined. Build one "
            "training set of all rows with BuildTrainingSetOperator(entities=...), or map the task over the "
            "training sets with .expand(dataset=...)."
            if found
            else "No dataset is given, because every upstream task was skipped. Skip this task too, for example with its "
            "trigger_rule."
        )
    return found


DatasetInput = Annotated[_Single, Discriminator(_kind), BeforeValidator(_as_one_dataset)]
"""One training set: a reference, the result of an upstream step, or a selection by name that contains one dataset."""

_Many = _Single | Annotated[list[Annotated[_Single, Discriminator(_kind)]], Tag("datasets"), Field(min_length=1)]
DatasetLike = Annotated[_Many, Discriminator(_kind), BeforeValidator(_as_dataset)]
"""One or several datasets: a reference, the results of an upstream step, mapped or not, or a selection by name."""

Chosen = DatasetRef | DatasetSelection | list[DatasetRef | DatasetSelection]
"""The type of the values of :data:`DatasetLike`."""


def _as_optional_dataset(value: Any) -> Any:
    # A skipped upstream task has no XCom, and a template that refers to it may render to an empty string.
    return (_as_dataset(value) or None) if value else None


OptionalDatasetLike = Annotated[Annotated[_Many, Discriminator(_kind)] | None, BeforeValidator(_as_optional_dataset)]


def names(chosen: Chosen) -> list[str]:
    """Return the names of the chosen datasets, each once."""
    return list(dict.fromkeys(item.name for item in (chosen if isinstance(chosen, list) else [chosen])))


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


class TableTarget(Model):
    """A table of a database, into which predictions are written.

    :param conn_id: id of the Airflow connection of the database
    :param table: name of the table, or ``SCHEMA.TABLE``
    """

    conn_id: str = Field(min_length=1)
    table: str = Field(pattern=r"^[^.\x00]+(\.[^.\x00]+)?$")


_DELTA_STORES = ("s3://", "s3a://")


class DeltaTarget(Model):
    """A Delta table, into which predictions are written.

    :param delta: absolute path of a folder, or URL in an object store, such as ``s3://bucket/predictions``
    :param conn_id: id of the Airflow connection of the type ``aws`` for a table in S3. By default, the credentials of
        the environment in which the step runs are used
    """

    delta: str
    conn_id: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _reachable(self) -> DeltaTarget:
        if not self.delta.startswith(("/", "file:///", *_DELTA_STORES)):
            raise ValueError(
                f"{self.delta!r} is neither an absolute path nor a URL that starts with file:///, "
                f"{' or '.join(_DELTA_STORES)}"
            )
        # Libraries for Delta interpret these characters in paths differently.
        if found := sorted(set("%?#[]|\\^\0\n") & set(self.delta)):
            raise ValueError(
                f"{self.delta!r} contains {found[0]!r}, which paths of Delta tables cannot contain. Rename it."
            )
        if next(url_credentials(self.delta), None) is not None:
            raise ValueError(
                "`delta` is a URL with credentials. Remove them, and set `conn_id`, or the environment variables of the store."
            )
        if self.conn_id is not None and not self.delta.startswith(_DELTA_STORES):
            raise ValueError(
                "`conn_id` is only used with a table in S3. Remove `conn_id`, or set `delta` to a URL that starts with s3://"
            )
        return self


class IcebergTarget(Model):
    """An Iceberg table, into which predictions are written.

    :param iceberg: name of the table with its namespaces, such as ``sales.predictions``
    :param conn_id: id of the Airflow connection of the type ``iceberg``, which describes the catalog
    """

    iceberg: str = Field(pattern=r"^[^.\x00]+(\.[^.\x00]+)+$")
    conn_id: str = Field(min_length=1)


def _table_kind(value: Any) -> str:
    found = value.keys() if isinstance(value, dict) else type(value).model_fields if isinstance(value, Model) else ()
    return next((kind for kind in ("delta", "iceberg") if kind in found), "table")


class WrittenTable(TableTarget):
    """A table with the number of rows that were written to it.

    :param rows: number of rows
    """

    rows: int


class WrittenDeltaTable(DeltaTarget):
    """A Delta table with the number of rows that were written to it.

    :param rows: number of rows
    """

    rows: int


class WrittenIcebergTable(IcebergTarget):
    """An Iceberg table with the number of rows that were written to it.

    :param rows: number of rows
    """

    rows: int


AnyTableTarget = Annotated[
    Annotated[TableTarget, Tag("table")]
    | Annotated[DeltaTarget, Tag("delta")]
    | Annotated[IcebergTarget, Tag("iceberg")],
    Discriminator(_table_kind),
]
"""A table of a database, a Delta table, or an Iceberg table."""

AnyWrittenTable = Annotated[
    Annotated[WrittenTable, Tag("table")]
    | Annotated[WrittenDeltaTable, Tag("delta")]
    | Annotated[WrittenIcebergTable, Tag("iceberg")],
    Discriminator(_table_kind),
]
"""A table of a database, a Delta table or an Iceberg table, with the number of rows that were written to it."""
