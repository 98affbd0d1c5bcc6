"""Versions and aliases of registered models as OpenLineage datasets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import data_quality_assertions_dataset, dataset_type_dataset

from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.lineage import facets
from airflow_mlops.lineage.facets import Facets, MLOpsMeasuredInputDatasetFacet, MLOpsModelDatasetFacet
from airflow_mlops.lineage.naming import bare, connection_namespace
from airflow_mlops.registry.client import tracking_uri
from airflow_mlops.registry.records.verdict import GateResult


class Models:
    """Converts the model versions of one MLflow server to OpenLineage datasets.

    The namespace of these datasets is the tracking URI of the server.

    :param target: the Airflow connection to the MLflow server
    """

    def __init__(self, target: MLflowTarget) -> None:
        try:
            self.namespace = bare(tracking_uri(airflow_connection(target.conn_id)))
        except MLOpsError:
            self.namespace = connection_namespace(target.conn_id)

    def read(
        self,
        ref: ModelVersionRef,
        *,
        alias: str | None = None,
        gates: Iterable[GateResult] = (),
        measured: MLOpsMeasuredInputDatasetFacet | None = None,
    ) -> InputDataset:
        """Return the OpenLineage input for a model version that a task read.

        :param ref: the model version
        :param alias: alias that names the OpenLineage dataset; by default the version number names it
        :param gates: results of the gates that tested the version
        :param measured: metrics that the task measured for the version
        """
        input_facets: Facets = {"mlops_measured": measured} if measured else {}
        if assertions := [_assertion(gate) for gate in gates]:
            facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet
            input_facets["dataQualityAssertions"] = facet(assertions=assertions)
        return InputDataset(
            namespace=self.namespace, name=_name(ref, alias), facets=self._facets(ref), inputFacets=input_facets
        )

    def written(
        self, ref: ModelVersionRef, *, alias: str | None = None, signature: Facets | None = None, **known: Any
    ) -> OutputDataset:
        """Return the OpenLineage output for a version that a task registered or an alias that a task moved.

        :param ref: the model version
        :param alias: the alias that was moved to this version; by default the version was registered
        :param signature: the facet ``schema`` with the features of the model
        :param known: additional fields of the facet ``mlops_model``
        """
        # A facet replaces earlier facets of the same dataset. Therefore only tasks that write a version emit
        # mlops_model.
        facet = MLOpsModelDatasetFacet(model=ref.model, version=ref.version, runId=ref.run_id or None, **known)
        return OutputDataset(
            namespace=self.namespace,
            name=_name(ref, alias),
            facets={**self._facets(ref), "mlops_model": facet, **(signature or {})},
        )

    def _facets(self, ref: ModelVersionRef) -> Facets:
        return {
            **facets.source("mlflow", self.namespace),
            **facets.version(str(ref.version)),
            "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(datasetType="MODEL"),
        }


def _name(ref: ModelVersionRef, alias: str | None) -> str:
    return f"models:/{ref.model}@{alias}" if alias else f"models:/{ref.model}/{ref.version}"


def _assertion(gate: GateResult) -> data_quality_assertions_dataset.Assertion:
    return data_quality_assertions_dataset.Assertion(
        assertion=gate.gate,
        success=gate.passed,
        description=gate.explanation,
        expected=None if gate.asked is None else str(gate.asked),
        actual=None if gate.measured is None else str(gate.measured),
    )
