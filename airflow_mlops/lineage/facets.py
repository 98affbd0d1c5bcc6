"""Custom OpenLineage facets, and functions that create standard facets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import attr
from openlineage.client.facet_v2 import (
    DatasetFacet,
    InputDatasetFacet,
    RunFacet,
    dataset_version_dataset,
    datasource_dataset,
    documentation_dataset,
    ownership_dataset,
    schema_dataset,
)


def _schema_url(name: str) -> str:
    # The JSON schemas are in the folder schemas/ next to this module.
    return f"urn:airflow-mlops:facets:1-0-0:{name}"


@attr.define(kw_only=True)
class MLOpsModelDatasetFacet(DatasetFacet):
    """The dataset facet ``mlops_model``, which describes a model version.

    :param model: name of the registered model
    :param version: number of the version, even if an alias such as ``champion`` names the OpenLineage dataset
    :param runId: id of the MLflow run that produced the version
    :param runUrl: URL of the run's page in MLflow
    :param trainer: name of the trainer
    :param metrics: values by metric name, measured on held-out data
    :param trainingSet: id (SHA-256) of the training set
    """

    model: str
    version: int
    runId: str | None = None  # noqa: N815 - OpenLineage's naming
    runUrl: str | None = None  # noqa: N815
    trainer: str | None = None
    metrics: dict[str, float] | None = None
    trainingSet: str | None = None  # noqa: N815

    _additional_skip_redact: ClassVar[list[str]] = ["model", "version", "runId", "metrics", "trainingSet"]

    @staticmethod
    def _get_schema() -> str:
        return _schema_url("MLOpsModelDatasetFacet")


@attr.define(kw_only=True)
class MLOpsMeasuredInputDatasetFacet(InputDatasetFacet):
    """The input facet ``mlops_measured``, which holds the metrics that a task measured for a model version.

    :param dataset: id (SHA-256) of the dataset on which the metrics were measured
    :param part: the held-out split part of this dataset, such as `test`
    :param metrics: values by metric name
    """

    dataset: str
    part: str
    metrics: dict[str, float]

    _additional_skip_redact: ClassVar[list[str]] = ["dataset", "part", "metrics"]

    @staticmethod
    def _get_schema() -> str:
        return _schema_url("MLOpsMeasuredInputDatasetFacet")


@attr.define(kw_only=True)
class MLOpsVerdictRunFacet(RunFacet):
    """The run facet ``mlops_verdict``, which holds the decision of a task about a model.

    :param model: name of the registered model
    :param verdict: ``accepted`` or ``refused`` (evaluation), ``promoted`` or ``not_promoted`` (promotion),
        ``rolled_back`` or ``unchanged`` (rollback), ``healthy``, ``watch`` or ``retrain`` (monitoring), or the
        state of a canary (:data:`~airflow_mlops.stages.canary.spec.State`)
    :param version: number of the version: the winning candidate after an evaluation, the canary, otherwise the champion
    :param reason: the reason for the decision
    :param metrics: the values on which the decision is based, by metric name
    """

    model: str
    verdict: str
    version: int | None = None
    reason: str = ""
    metrics: dict[str, float] | None = None

    _additional_skip_redact: ClassVar[list[str]] = ["model", "verdict", "version", "metrics"]

    @staticmethod
    def _get_schema() -> str:
        return _schema_url("MLOpsVerdictRunFacet")


@attr.define(kw_only=True)
class MLOpsUsageRunFacet(RunFacet):
    """The run facet ``mlops_usage`` with the resources that a task used, see :class:`~airflow_mlops.core.usage.Usage`.

    :param seconds: elapsed time
    :param cpuSeconds: CPU time
    :param gpuSeconds: elapsed time multiplied by the number of GPUs that the process could use
    :param peakMemoryMb: largest resident memory, in MB
    :param readBytes: bytes read from the artifact store
    :param writtenBytes: bytes written to the artifact store
    :param rows: number of rows that the task processed
    """

    seconds: float
    cpuSeconds: float  # noqa: N815
    peakMemoryMb: float  # noqa: N815
    gpuSeconds: float | None = None  # noqa: N815
    readBytes: int = 0  # noqa: N815
    writtenBytes: int = 0  # noqa: N815
    rows: int | None = None

    _additional_skip_redact: ClassVar[list[str]] = [
        "seconds", "cpuSeconds", "gpuSeconds", "peakMemoryMb", "readBytes", "writtenBytes", "rows"
    ]  # fmt: skip

    @staticmethod
    def _get_schema() -> str:
        return _schema_url("MLOpsUsageRunFacet")


Facets = dict[str, Any]


def schema(columns: Iterable[tuple[str, str]] | Mapping[str, str]) -> Facets:
    """Return the facet ``schema``, which lists columns and their types; empty without columns."""
    pairs = columns.items() if isinstance(columns, Mapping) else columns
    field = schema_dataset.SchemaDatasetFacetFields
    fields = [field(name=name, type=kind, ordinal_position=place) for place, (name, kind) in enumerate(pairs, start=1)]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)} if fields else {}


def source(name: str, uri: str | None = None) -> Facets:
    """Return the facet ``dataSource``, which names the storage of a dataset.

    :param name: name of the storage, such as the OpenLineage namespace
    :param uri: URI of the storage; by default derived from ``name``
    """
    uri = uri or (name if "://" in name else f"{name}://")
    return {"dataSource": datasource_dataset.DatasourceDatasetFacet(name=name, uri=uri)}


def version(text: str) -> Facets:
    """Return the facet ``version``, which names the version of the dataset that was read or written."""
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=text)}


def documentation(description: str = "", owner: str = "") -> Facets:
    """Return the facets ``documentation`` and ``ownership``. A facet is left out if its value is empty."""
    found: Facets = {}
    if description:
        found["documentation"] = documentation_dataset.DocumentationDatasetFacet(description=description)
    if owner:
        owners = [ownership_dataset.Owner(name=owner, type="OWNER")]
        found["ownership"] = ownership_dataset.OwnershipDatasetFacet(owners=owners)
    return found
