"""The facets that OpenLineage does not define, and short ways to those that it does."""

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
    # The schemas are the JSON files in the folder schemas/ beside this module.
    return f"urn:airflow-mlops:facets:1-0-0:{name}"


@attr.define(kw_only=True)
class MLOpsModelDatasetFacet(DatasetFacet):
    """What is known of a model version; the facet ``mlops_model``.

    :param model: the registered model's name
    :param version: the version that is meant, also by an alias
    :param runId: the MLflow run that made it
    :param runUrl: that run's page
    :param trainer: what was trained
    :param metrics: measured on held-out data
    :param trainingSet: the training set's id, the SHA-256 over all that it is
    """

    model: str
    version: int
    runId: str | None = None  # noqa: N815 - OpenLineage's way
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
    """What a task measured on a model version; the input facet ``mlops_measured``.

    :param dataset: the id of the dataset it was measured on
    :param part: the part of it that was held out
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
    """What a task decided about a model; the facet ``mlops_verdict``.

    :param verdict: ``accepted`` or ``refused``, ``promoted`` or ``not_promoted``, ``rolled_back`` or ``unchanged``,
        ``healthy``, ``watch`` or ``retrain``
    :param version: the version it is about: the winner, the champion
    :param reason: one sentence that says why
    :param metrics: the numbers it stands on
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
    """Columns and their types."""
    pairs = columns.items() if isinstance(columns, Mapping) else columns
    field = schema_dataset.SchemaDatasetFacetFields
    fields = [field(name=name, type=kind, ordinal_position=place) for place, (name, kind) in enumerate(pairs, start=1)]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)} if fields else {}


def source(name: str, uri: str | None = None) -> Facets:
    """Where it is kept: a namespace, or another name and its URI."""
    uri = uri or (name if "://" in name else f"{name}://")
    return {"dataSource": datasource_dataset.DatasourceDatasetFacet(name=name, uri=uri)}


def version(text: str) -> Facets:
    """Which version of it was read or written."""
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=text)}


def about(description: str = "", owner: str = "") -> Facets:
    """What it is and whose, where somebody said so."""
    found: Facets = {}
    if description:
        found["documentation"] = documentation_dataset.DocumentationDatasetFacet(description=description)
    if owner:
        owners = [ownership_dataset.Owner(name=owner, type="OWNER")]
        found["ownership"] = ownership_dataset.OwnershipDatasetFacet(owners=owners)
    return found
