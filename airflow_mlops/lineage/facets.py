"""Custom OpenLineage facets, and helpers for standard ones."""

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
    """The facet ``mlops_model`` of a model version.

    :param model: name of the registered model
    :param version: number of the version, also if the dataset is named by an alias
    :param runId: the MLflow run that produced it
    :param runUrl: page of this run
    :param trainer: name of the trainer
    :param metrics: metrics on held-out data
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
    """The input facet ``mlops_measured`` of a model version: the metrics that a task measured.

    :param dataset: id of the dataset on which they were measured
    :param part: the held-out part of this dataset
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
    """The run facet ``mlops_verdict``: what a task decided about a model.

    :param model: name of the registered model
    :param verdict: ``accepted`` or ``refused``, ``promoted`` or ``not_promoted``, ``rolled_back`` or ``unchanged``,
        ``healthy``, ``watch`` or ``retrain``
    :param version: the winning candidate, or the champion
    :param reason: one sentence
    :param metrics: the numbers behind the decision
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


Facets = dict[str, Any]


def schema(columns: Iterable[tuple[str, str]] | Mapping[str, str]) -> Facets:
    """The facet ``schema``: columns and their types."""
    pairs = columns.items() if isinstance(columns, Mapping) else columns
    field = schema_dataset.SchemaDatasetFacetFields
    fields = [field(name=name, type=kind, ordinal_position=place) for place, (name, kind) in enumerate(pairs, start=1)]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)} if fields else {}


def source(name: str, uri: str | None = None) -> Facets:
    """The facet ``dataSource``: the storage of a dataset, as a namespace or as a name and a URI."""
    uri = uri or (name if "://" in name else f"{name}://")
    return {"dataSource": datasource_dataset.DatasourceDatasetFacet(name=name, uri=uri)}


def version(text: str) -> Facets:
    """The facet ``version``: the version that was read or written."""
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=text)}


def documentation(description: str = "", owner: str = "") -> Facets:
    """The facets ``documentation`` and ``ownership``, as far as given."""
    found: Facets = {}
    if description:
        found["documentation"] = documentation_dataset.DocumentationDatasetFacet(description=description)
    if owner:
        owners = [ownership_dataset.Owner(name=owner, type="OWNER")]
        found["ownership"] = ownership_dataset.OwnershipDatasetFacet(owners=owners)
    return found
