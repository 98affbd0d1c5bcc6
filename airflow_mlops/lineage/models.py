"""Versions and aliases of registered models as OpenLineage datasets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import data_quality_assertions_dataset, dataset_type_dataset

from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.core.errors import ConnectionNotFoundError
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.lineage import facets
from airflow_mlops.lineage.facets import Facets, MLOpsMeasuredInputDatasetFacet, MLOpsModelDatasetFacet
from airflow_mlops.lineage.naming import bare, connection_namespace
from airflow_mlops.registry.client import tracking_uri
from airflow_mlops.registry.verdict import GateResult


class Models:
    """The models of one MLflow server. Their namespace is its tracking URI."""

    def __init__(self, target: MLflowTarget) -> None:
        try:
            self.namespace = bare(tracking_uri(airflow_connection(target.conn_id)))
        except ConnectionNotFoundError:
            self.namespace = connection_namespace(target.conn_id)

    def read(
        self,
        ref: ModelVersionRef,
        *,
        alias: str | None = None,
        gates: Iterable[GateResult] = (),
        measured: MLOpsMeasuredInputDatasetFacet | None = None,
    ) -> InputDataset:
        """A model version as an input, named by its number or by an alias.

        :param gates: results of the gates that it was tested by
        :param measured: metrics measured on it
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
        """A version that was registered, or an alias that was moved, as an output.

        :param signature: the facet ``schema`` with the model's features
        :param known: further fields of the facet ``mlops_model``
        """
        # A facet replaces earlier ones of the same dataset. Therefore only tasks that write a version emit mlops_model.
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
