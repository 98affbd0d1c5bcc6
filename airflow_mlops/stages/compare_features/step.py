"""Compare the features that a server looked up online with the point-in-time join for the time of each answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import FeatureMismatchError, FeatureStoreError, SchemaError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets import Dataset, DatasetWriter, Manifest
from airflow_mlops.data.datasets.catalog import read_manifest
from airflow_mlops.data.feast import join as feast_join
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.logged import entity_types, equal, feature_refs
from airflow_mlops.data.feast.request import FeatureRequest, resolve
from airflow_mlops.data.predictions.privacy import hashed_or_dropped
from airflow_mlops.data.selection import select, window_of
from airflow_mlops.data.spool import spooled
from airflow_mlops.models import contracts
from airflow_mlops.registry import versions
from airflow_mlops.registry.client import connect
from airflow_mlops.stages.compare_features.spec import CompareFeaturesResult, CompareFeaturesSpec
from airflow_mlops.stages.context import StepContext

if TYPE_CHECKING:
    from feast import FeatureStore

SCORED_AT, REQUEST_ID, REQUEST_ROW = "scored_at", "request_id", "request_row"
# Number of features that a message names.
_NAMED = 5
_DIFFERENCES = pa.schema(
    [
        (REQUEST_ID, pa.string()),
        (REQUEST_ROW, pa.int64()),
        (SCORED_AT, pa.timestamp("us", "UTC")),
        ("model_version", pa.int64()),
        ("entity", pa.string()),
        ("feature", pa.string()),
        ("online", pa.string()),
        ("offline", pa.string()),
    ]
)


def run(spec: CompareFeaturesSpec, context: StepContext) -> CompareFeaturesResult:
    """Compare the features of logged rows with the point-in-time join for the times at which the rows were answered.

    The values that differ are written as the dataset ``MODEL_feature_differences``, even if the step fails or no value
    differs.

    :raises DatasetNotFoundError: there are no logged predictions
    :raises SpecError: the predictions come from a different model, or no server has logged them
    :raises SchemaError: the log has no values of a join key, or only their hashes
    :raises FeatureStoreError: the repository cannot be used, or no longer has a feature of the model
    :raises FeatureMismatchError: fewer rows are equal than ``min_equal``
    """
    datasets = select(context.store, spec.dataset, kept=context.kept)
    client = connect(spec.mlflow, context.connection)
    store = feast_repo.open_store(spec.repo)
    counts = _Counts()
    with DatasetWriter(context.store, f"{spec.model}_feature_differences") as writer:
        writer.write(_DIFFERENCES.empty_table())
        for dataset in datasets:
            version = versions.version(client, spec.model, _version(dataset, spec.model))
            contract = contracts.read(client, context.store, version).contract
            training = read_manifest(context.store, contract.dataset_name, contract.dataset_id)
            log = _Log.of(dataset, version, training, store)
            for found in log.compare(counts) if log is not None else ():
                writer.write(found)
            counts.rows += dataset.rows
        window = window_of(datasets)
        manifest, _ = writer.commit(
            window=window,
            description=f"Features of {spec.model} whose values online differ from the point-in-time join",
            source={"dataset": datasets[0].manifest.name, "repo": str(store.repo_path)},
            parents=[dataset.ref for dataset in datasets],
            provenance=context.provenance,
            check=context.require_unfinished,
        )
    context.processed(counts.rows)
    label = f"{datasets[0].manifest.name}{f' {window.label}' if window else ''}"
    share = None if not counts.compared else 1 - counts.unequal / counts.compared
    summary = _summary(counts, label, manifest.name)
    if share is not None and share < spec.min_equal:
        raise FeatureMismatchError(summary)
    return CompareFeaturesResult(
        rows=counts.rows,
        compared=counts.compared,
        equal=share,
        features=dict(counts.features),
        differences=manifest.ref,
        summary=summary,
    )


def _version(dataset: Dataset, model: str) -> int:
    """Return the number of the version that made the predictions.

    :raises SpecError: the predictions come from a different model, or no server has logged them
    """
    details, name = dataset.manifest.details, dataset.manifest.name
    if details.get("model") != model:
        raise SpecError(f"Dataset {name!r} has no predictions of model {model!r}. Correct `model` or `dataset`.")
    if REQUEST_ROW not in dataset.manifest.column_names:
        raise SpecError(
            f"Dataset {name!r} was not logged by a server, so no features were looked up for it. Set `dataset` to the predictions of "
            "a server."
        )
    return int(details["model_version"])


def _summary(counts: _Counts, label: str, differences: str) -> str:
    if not counts.compared:
        return f"None of {counted(counts.rows, 'row')} of {label} has join keys and features from Feast."
    if not counts.unequal:
        return f"The features of {counted(counts.compared, 'compared row')} of {label} equal the point-in-time join."
    worst = ", ".join(f"{name} ({rows:,})" for name, rows in counts.features.most_common(_NAMED) if rows)
    request, row = counts.first
    return (
        f"{counts.unequal:,} of {counted(counts.compared, 'compared row')} of {label} ({counts.unequal / counts.compared:.2%}) have "
        f"other features than the point-in-time join: {worst}. The first is row {row} of request {request!r}. The dataset "
        f"{differences} lists all unequal values. Check that features were materialized up to the time of the answers."
    )


@dataclass
class _Counts:
    """Numbers of rows of the comparison.

    :param rows: logged rows
    :param compared: compared rows
    :param unequal: compared rows with at least one unequal feature
    :param features: unequal rows by name of the feature
    :param first: id of the request, and number in the request, of the first unequal row
    """

    rows: int = 0
    compared: int = 0
    unequal: int = 0
    features: Counter[str] = field(default_factory=Counter)
    first: tuple[Any, Any] = (None, None)


@dataclass(frozen=True)
class _Log:
    """Logged rows of one version, and the features to compare.

    :param dataset: the logged rows
    :param version: the version that answered
    :param store: the Feast repository
    :param request: the features to join
    :param wanted: Feast reference of each feature to compare, by name of the column
    :param types: types of the join keys and of the inputs of on-demand feature views
    """

    dataset: Dataset
    version: ModelVersionRef
    store: FeatureStore
    request: FeatureRequest
    wanted: Mapping[str, str]
    types: Mapping[str, pa.DataType]

    @classmethod
    def of(cls, dataset: Dataset, version: ModelVersionRef, training: Manifest, store: FeatureStore) -> _Log | None:
        """Return the log of a version; ``None`` if none of its logged features comes from Feast.

        :raises FeatureStoreError: the repository no longer has a feature of the version
        :raises SchemaError: the log has no values of a join key, or only their hashes
        """
        private = hashed_or_dropped(dataset.manifest.details)
        columns = [name for name in dataset.manifest.column_names if name not in private]
        wanted = feature_refs(training, columns)
        if not wanted:
            return None
        service, refs = training.details.get("feature_service"), list(dict.fromkeys(wanted.values()))
        if missing := feast_repo.missing_features(store, service, refs):
            raise FeatureStoreError(
                f"The Feast repository {store.repo_path} no longer has the feature {missing[0]!r} of {version}. Compare with the "
                "repository that the servers use."
            )
        with feast_repo.locked(store, shared=True):
            request = resolve(store, service, None if service else refs)
        types = entity_types(request)
        for name in types:
            if name not in columns:
                why = f"is {private[name]}" if name in private else "is absent"
                raise SchemaError(
                    f"The features of {version} cannot be compared, because {name!r}, by which they are joined, {why} in dataset "
                    f"{dataset.manifest.name!r}. Log its values."
                )
        return cls(dataset, version, store, request, wanted, types)

    def compare(self, counts: _Counts) -> Iterator[pa.Table]:
        """Compare all rows, and yield the differences as rows of :data:`_DIFFERENCES`.

        :param counts: numbers to which these rows are added
        """
        counts.features.update(dict.fromkeys(self.wanted, 0))
        present = [name for name in (REQUEST_ID, REQUEST_ROW) if name in self.dataset.manifest.column_names]
        names = list(dict.fromkeys([SCORED_AT, *present, *self.types, *self.wanted]))
        schema = pa.schema([self.dataset.schema.field(name) for name in names]).remove_metadata()
        with spooled(self.dataset.batches(None, names), schema) as rows:
            if not rows.num_rows:
                return
            events = rows.select([SCORED_AT, *self.types])
            for name, kind in self.types.items():
                # If a numeric key is also a feature, the log has it as a double.
                events = events.converted(name, kind, partial(pc.cast, target_type=kind))
            start = 0
            for joined in feast_join.join(self.store, self.request, events, SCORED_AT):
                logged = rows.slice(start, joined.num_rows)
                start += joined.num_rows
                yield from self._differences(logged, joined, counts)

    def _differences(self, logged: pa.Table, joined: pa.Table, counts: _Counts) -> Iterator[pa.Table]:
        known = np.zeros(logged.num_rows, bool)
        for name in self.request.join_keys:
            known |= logged[name].is_valid().to_numpy()
        counts.compared += int(known.sum())
        unequal = np.zeros(logged.num_rows, bool)
        for name, ref in self.wanted.items():
            online, offline = logged[name].combine_chunks(), joined[ref].combine_chunks()
            differs = known & ~equal(online, offline)
            if not differs.any():
                continue
            unequal |= differs
            counts.features[name] += int(differs.sum())
            yield self._named(name, logged, online, offline, np.flatnonzero(differs))
        if unequal.any():
            if not counts.unequal:
                row = logged.slice(int(unequal.argmax()), 1)
                counts.first = (_value(row, REQUEST_ID), _value(row, REQUEST_ROW))
            counts.unequal += int(unequal.sum())

    def _named(self, name: str, logged: pa.Table, online: pa.Array, offline: pa.Array, places: Any) -> pa.Table:
        rows = logged.take(pa.array(places))
        entities = [json.dumps(row, default=str) for row in rows.select(list(self.types)).to_pylist()]
        columns = [
            rows[REQUEST_ID].cast(pa.string()) if REQUEST_ID in rows.column_names else pa.nulls(len(rows), pa.string()),
            rows[REQUEST_ROW],
            rows[SCORED_AT],
            pa.repeat(pa.scalar(self.version.version, pa.int64()), len(rows)),
            pa.array(entities, pa.string()),
            pa.repeat(pa.scalar(name), len(rows)),
            *(_texts(values.take(pa.array(places))) for values in (online, offline)),
        ]
        return pa.table(columns, schema=_DIFFERENCES)


def _texts(values: pa.Array) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())


def _value(row: pa.Table, name: str) -> Any:
    return row[name][0].as_py() if name in row.column_names else None
