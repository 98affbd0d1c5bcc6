"""The lineage of the stages that make datasets: from the sources to the training set."""

from __future__ import annotations

import re
from collections.abc import Iterable

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import base_subset_dataset, data_quality_assertions_dataset

from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.references import names
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.lineage import sources
from airflow_mlops.lineage.datasets import Datasets, feature_view
from airflow_mlops.lineage.facets import Facets
from airflow_mlops.lineage.stages.types import Lineage, ResultJson
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsResult, ForecastRowsSpec
from airflow_mlops.stages.ingest.spec import IngestResult, IngestSpec
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesResult, MaterializeFeaturesSpec
from airflow_mlops.stages.training_set.spec import TrainingSetResult, TrainingSetSpec
from airflow_mlops.stages.validate.outcomes import read_outcomes
from airflow_mlops.stages.validate.spec import ExpectationOutcome, ValidateResult, ValidateSpec


def ingest(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of an ingestion, which reads tables or files and writes a raw dataset."""
    spec = IngestSpec.model_validate(call.spec)
    done = IngestResult.model_validate(result) if result else None
    made = datasets.manifest(done.dataset) if done else None
    found: Lineage = OperatorLineage(inputs=sources.files(spec, made))
    if spec.sql and spec.conn_id:
        found = sources.query(spec.conn_id, spec.sql)
    found.outputs = [datasets.written(done.dataset) if done else datasets.planned(spec.name)]
    return found


def validate(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a validation, which reads a dataset and can write the valid and the quarantined rows.

    A validation in a database reads tables, and can write the quarantined rows.
    """
    spec = ValidateSpec.model_validate(call.spec)
    done = ValidateResult.model_validate(result) if result else None
    outcomes = done.outcomes if done else read_outcomes(datasets.store, call.key)
    if spec.dataset is None:
        found = _validated_in_database(spec, outcomes)
        found.outputs = [datasets.written(done.quarantined)] if done and done.quarantined else []
        return found
    valid = done.dataset if done else []
    written = [*(valid if isinstance(valid, list) else [valid]), done.quarantined if done else None]
    made = [ref for ref in written if ref is not None and ref.name not in names(spec.dataset)]
    return OperatorLineage(
        inputs=datasets.read(spec.dataset, input_facets=_assertions(outcomes, spec.on_failure)),
        outputs=[datasets.written(ref) for ref in made],
    )


def _validated_in_database(spec: ValidateSpec, outcomes: Iterable[ExpectationOutcome]) -> Lineage:
    assert spec.conn_id is not None  # the spec has checked that it is set
    if spec.table is None:
        # The expectations concern the result of the query, and not its tables.
        return sources.query(spec.conn_id, spec.sql or "")
    assertions = _assertions(outcomes, spec.on_failure)
    return OperatorLineage(inputs=sources.validated_table(spec.conn_id, spec.table, assertions))


def _assertions(outcomes: Iterable[ExpectationOutcome], on_failure: str) -> Facets:
    assertions = []
    for outcome in outcomes:
        stops = on_failure == "fail" or (on_failure == "quarantine" and outcome.unexpected is None)
        severity = {"critical": "error" if stops else "warn", "warning": "warn", "info": "info"}[outcome.severity]
        kind, _, about = outcome.expectation.removesuffix(")").partition("(")
        assertions.append(
            data_quality_assertions_dataset.Assertion(
                assertion=kind,
                success=outcome.success,
                # Expectations about several columns have no single column.
                column=about if re.fullmatch(r"[^,\[\]]+", about) else None,
                name=outcome.expectation,
                severity=severity,
                params={} if outcome.unexpected is None else {"unexpected": outcome.unexpected},
            )
        )
    facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet
    return {"dataQualityAssertions": facet(assertions=assertions)} if assertions else {}


def materialize_features(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a materialization, which reads datasets and writes feature views."""
    spec = MaterializeFeaturesSpec.model_validate(call.spec)
    done = MaterializeFeaturesResult.model_validate(result) if result else None
    outputs = []
    for view in done.feature_views if done else ():
        assert done is not None
        namespace, name, known = feature_view(done.project, view, done.features.get(view, {}))
        window = base_subset_dataset.Partition(dimensions={"window": done.window.label})
        condition = base_subset_dataset.PartitionSubsetCondition(partitions=[window])
        subset = base_subset_dataset.OutputSubsetOutputDatasetFacet(outputCondition=condition)
        outputs.append(OutputDataset(namespace, name, outputFacets={"subset": subset}, facets=known))
    inputs = [found for source in spec.sources.values() for found in datasets.read(source.dataset)]
    return OperatorLineage(inputs=inputs, outputs=outputs)


def forecast_rows(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of forecast rows, which are built from the values of series."""
    spec = ForecastRowsSpec.model_validate(call.spec)
    if not result:
        return OperatorLineage(inputs=datasets.read(spec.entities), outputs=[datasets.planned(spec.name)])
    done = ForecastRowsResult.model_validate(result)
    made = datasets.manifest(done.dataset)
    return OperatorLineage(inputs=datasets.read(spec.entities, output=made), outputs=[datasets.written(done.dataset)])


def training_set(call: StepCall, result: ResultJson, datasets: Datasets) -> Lineage:
    """Return the lineage of a training set, which is built from events and feature views."""
    spec = TrainingSetSpec.model_validate(call.spec)
    if not result:
        return OperatorLineage(inputs=datasets.read(spec.entities), outputs=[datasets.planned(spec.name)])
    done = TrainingSetResult.model_validate(result)
    made = datasets.manifest(done.dataset)
    return OperatorLineage(
        inputs=[*datasets.read(spec.entities, output=made), *_features(made)], outputs=[datasets.written(done.dataset)]
    )


def _features(made: Manifest) -> list[InputDataset]:
    """Return the feature views from which a training set was joined, and their feature service if it used one."""
    project, service = made.source.get("feast_project"), made.details.get("feature_service")
    if not project:
        return []
    types = {column.name: column.type for column in made.columns}
    refs = [ref.partition(":") for ref in made.details["feature_refs"]]
    # The task that materializes a view emits the full schema. A training set may use only some features of the view.
    views: dict[str, dict[str, str]] = {view: {} for view, _, _ in refs}
    if service:
        views[service] = {name: types.get(f"{view}__{name}") or types[name] for view, _, name in refs}
    return [
        InputDataset(namespace, name, facets=known)
        for namespace, name, known in (feature_view(project, view, features) for view, features in views.items())
    ]
