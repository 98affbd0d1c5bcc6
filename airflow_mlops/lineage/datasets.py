"""Datasets of the artifact store, and Feast's feature views, as OpenLineage datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    base_subset_dataset,
    input_statistics_input_dataset,
    output_statistics_output_dataset,
)

from airflow_mlops.core.errors import DatasetNotFoundError, IncompleteWindowError, SchemaError, SpecError
from airflow_mlops.core.references import Chosen, DatasetRef, names
from airflow_mlops.data.datasets import Manifest, open_dataset
from airflow_mlops.data.selection import select
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.lineage import facets
from airflow_mlops.lineage.facets import Facets
from airflow_mlops.lineage.naming import place


class Datasets:
    """Converts the datasets of one artifact store to OpenLineage datasets.

    All windows of a dataset are one OpenLineage dataset. Each window is a version of this OpenLineage dataset.

    :param url: URL of the artifact store
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.store = ArtifactStore(url)

    def name(self, key: str) -> tuple[str, str]:
        """Return the OpenLineage namespace and name of the object at ``key`` in the artifact store."""
        return place(f"{self._url}/{key}")

    def manifest(self, ref: DatasetRef) -> Manifest:
        """Read the manifest of a dataset.

        :raises DatasetNotFoundError: the store does not contain the dataset
        """
        return open_dataset(self.store, ref).manifest

    def read(
        self,
        chosen: Chosen,
        *,
        part: str | None = None,
        output: Manifest | None = None,
        input_facets: Facets | None = None,
    ) -> list[InputDataset]:
        """Return the OpenLineage inputs for the datasets that a task read, one input for each dataset name.

        :param chosen: the selected datasets
        :param part: the split part that was read, such as `test`; by default the whole dataset
        :param output: manifest of the dataset that the task wrote. Its parents are the datasets that were read. If
            ``output`` is ``None``, or if ``chosen`` is a single reference, the datasets are found from ``chosen``
        :param input_facets: additional input facets by name
        """
        manifests = self._manifests(chosen, output)
        return [
            self._read(name, [found for found in manifests if found.name == name], part, dict(input_facets or {}))
            for name in names(chosen)
        ]

    def _read(self, name: str, manifests: Sequence[Manifest], part: str | None, read: Facets) -> InputDataset:
        files = [file for manifest in manifests for file in manifest.files if part in (None, file.part)]
        namespace, name = self.name(f"datasets/{name}")
        if manifests:
            read["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                rowCount=sum(file.rows for file in files),
                size=sum(file.bytes for file in files),
                fileCount=len(files),
            )
        if partitions := _partitions(manifests):
            condition = base_subset_dataset.PartitionSubsetCondition(partitions=partitions)
            read["subset"] = base_subset_dataset.InputSubsetInputDatasetFacet(inputCondition=condition)
        return InputDataset(namespace=namespace, name=name, facets=self._facets(manifests), inputFacets=read)

    def written(self, ref: DatasetRef) -> OutputDataset:
        """Return the OpenLineage output for a dataset that a task wrote."""
        manifest = self.manifest(ref)
        namespace, name = self.name(f"datasets/{ref.name}")
        wrote: Facets = {
            "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=manifest.rows, size=sum(file.bytes for file in manifest.files), fileCount=len(manifest.files)
            )
        }
        if partitions := _partitions([manifest]):
            condition = base_subset_dataset.PartitionSubsetCondition(partitions=partitions)
            wrote["subset"] = base_subset_dataset.OutputSubsetOutputDatasetFacet(outputCondition=condition)
        return OutputDataset(namespace=namespace, name=name, facets=self._facets([manifest]), outputFacets=wrote)

    def planned(self, name: str) -> OutputDataset:
        """Return the OpenLineage output for a dataset that a task should write but has not written, without facets.

        :param name: name of the dataset
        """
        namespace, name = self.name(f"datasets/{name}")
        return OutputDataset(namespace=namespace, name=name)

    def _manifests(self, chosen: Chosen, output: Manifest | None) -> list[Manifest]:
        if isinstance(chosen, DatasetRef):
            output = None  # a reference needs no search
        if output is not None:
            return [found for name in names(chosen) for found in self._parents(output, name)]
        try:
            # A dataset that is read in two parts, before and after a newer dataset, is listed once.
            return list({found.manifest.id: found.manifest for found in select(self.store, chosen)}.values())
        except (DatasetNotFoundError, IncompleteWindowError, SchemaError, SpecError):
            return []  # the task has failed for the same reason, so its lineage has no such dataset

    def _parents(self, manifest: Manifest, name: str) -> list[Manifest]:
        found = []
        for parent in manifest.parents:
            try:
                found.append(self.manifest(DatasetRef(name=name, id=parent, rows=0)))
            except DatasetNotFoundError:
                continue  # this parent is a version of a different dataset
        return found

    def _facets(self, manifests: Sequence[Manifest]) -> Facets:
        source = facets.source(*_source(self._url))
        if not manifests:
            return source
        last = manifests[-1]
        return {
            **source,
            **facets.schema((column.name, column.type) for column in last.columns),
            **facets.documentation(last.description, last.owner),
            **(facets.version(last.id) if len(manifests) == 1 else {}),
        }


def _source(url: str) -> tuple[str, str]:
    namespace, name = place(url)
    return namespace, f"{namespace}://{name}" if namespace == "file" else f"{namespace}/{name}"


def _partitions(manifests: Sequence[Manifest]) -> list[base_subset_dataset.Partition]:
    return [
        base_subset_dataset.Partition(dimensions={"window": manifest.window.label}, identifier=manifest.id)
        for manifest in manifests
        if manifest.window is not None
    ]


def feature_view(project: str, view: str, features: Mapping[str, str]) -> tuple[str, str, Facets]:
    """Return the namespace, the name and the facets of a feature view or feature service.

    Feast's own OpenLineage events use the same namespace and name.

    :param project: name of the Feast project
    :param view: name of the feature view or feature service
    :param features: types of the features by name; features of unknown type may be left out
    """
    return project, view, {**facets.source("feast", f"feast://{project}"), **facets.schema(features)}
