"""Join features of a Feast repository to the events of a training set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.columns import event_column, is_reserved
from airflow_mlops.data.spool import Rows, spooled
from airflow_mlops.stages.training_set.spec import TrainingSetSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.data.feast.parquet_source import ParquetSource
    from airflow_mlops.data.feast.remembered import Source


@dataclass(frozen=True)
class PartedFeatures:
    """Features that are joined to parts of the events.

    :param sources: sources of the feature views
    :param refs: Feast reference ``view:feature`` of each feature
    :param names: name of the column in the training set of each feature
    :param keys: columns of the events that are join keys of the feature views
    """

    sources: list[ParquetSource]
    refs: list[str]
    names: list[str]
    keys: list[str]


class FeatureSource:
    """The Feast repository from which the features of a training set are joined.

    The repository is opened only if the spec contains features from Feast.

    :raises FeatureStoreError: Feast computes a feature only when it materializes the view
    """

    def __init__(self, spec: TrainingSetSpec) -> None:
        self._spec = spec
        self._store = self._request = None
        if spec.feature_service is None and not spec.features:
            return
        from airflow_mlops.data.feast import repository as feast_repo
        from airflow_mlops.data.feast import request as feast_request

        assert spec.repo is not None
        self._store = feast_repo.open_store(spec.repo)
        with feast_repo.locked(self._store, shared=True):
            self._request = feast_request.resolve(self._store, spec.feature_service, spec.features)
        feast_request.require_stored(self._request)

    @property
    def event_columns(self) -> list[str]:
        """Return the columns of the events that the join needs in addition to the event time."""
        return [*self._request.join_keys, *self._request.event_columns] if self._request else []

    def content(self) -> dict[str, Any]:
        """Return hashes of the definitions and of the files from which the features are joined; empty without Feast.

        :raises NotCacheableError: a source is not made of local Parquet files
        """
        if self._store is None or self._request is None:
            return {}
        from airflow_mlops.data.feast.content import describe

        return describe(self._store, self._request)

    def described(self) -> tuple[dict[str, Any], list[Source] | None]:
        """Return :meth:`content`, and the files of each feature view, see :mod:`airflow_mlops.data.feast.remembered`.

        :raises NotCacheableError: a source is not made of local Parquet files
        """
        described = self.content()
        if self._store is None or self._request is None:
            return described, None
        from airflow_mlops.data.feast.content import sources

        return described, sources(self._store, self._request)

    @property
    def refs(self) -> list[str]:
        """Return the Feast reference ``view:feature`` of each feature."""
        return self._request.refs if self._request else []

    @property
    def keys(self) -> list[str]:
        """Return the columns of the events that are join keys of the feature views."""
        return self._request.join_keys if self._request else []

    @contextmanager
    def join(self, events: Rows) -> Iterator[Rows]:
        """Join the features to all events, as they were known at each event time.

        The joined features are in a temporary file, which exists only inside the ``with`` block.

        :param events: the events, with the event time and the columns :attr:`event_columns`
        :return: values of the features, with the names :meth:`names`
        :raises SchemaError: two columns of the training set would have the same name
        """
        if self._store is None or self._request is None:
            yield events.select([])
            return
        from airflow_mlops.data.feast.join import join

        names = self.names(events.column_names)
        tables = join(self._store, self._request, events, self._spec.timestamp, self._spec.memory_limit)
        with spooled(tables) as features:
            yield features.select(self.refs).rename_columns(names)

    def names(self, event_columns: Sequence[str]) -> list[str]:
        """Return the name that each feature has as a column of the training set.

        :param event_columns: names of the columns of the events
        :raises SchemaError: two columns of the training set would have the same name
        """
        spec = self._spec
        names = _names(self.refs, [*event_columns, *([spec.label.name] if spec.label else [])])
        others = {*map(event_column, event_columns), *([spec.label.name] if spec.label else [])}
        if twice := [name for name in names if names.count(name) > 1 or name in others]:
            raise SchemaError(
                f"The training set would have several columns {twice[0]!r}. Rename the feature in Feast with `field_mapping`, or "
                "the column where the data is ingested, in SQL with `AS`."
            )
        return names

    def in_parts(self, events: pa.Schema) -> PartedFeatures | None:
        """Return the features if DuckDB can join them to a part of the events, on a machine without Feast.

        :param events: the columns of the events
        :return: ``None`` if Feast joins or computes a feature, or a source is not a local file or in S3
        :raises FeatureStoreError: see :func:`airflow_mlops.data.feast.parquet_source.open_source`
        :raises SchemaError: two columns of the training set would have the same name
        """
        if self._store is None or self._request is None:
            return PartedFeatures([], [], [], [])
        from airflow_mlops.data.feast import parquet_source, sent_sources

        request = self._request
        if request.on_demand or not all(parquet_source.is_parquet(self._store, view) for view in request.views):
            return None
        opened = [parquet_source.open_source(self._store, view, events) for view in request.views]
        if not all(sent_sources.can_be_sent(source) for source in opened):
            return None
        return PartedFeatures(opened, self.refs, self.names(events.names), self.keys)

    def describe(self) -> dict[str, Any]:
        """Return the name of the Feast project and the path of the repository, for the manifest of the training set.

        The result is empty without Feast. A rollback checks that the features still exist in this project.
        """
        if self._store is None:
            return {}
        return {"feast_project": self._store.project, "feast_repo": str(self._store.repo_path.absolute())}


def _names(refs: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return the column name of each feature: the name of the feature, or ``view__feature``.

    The second form is used if the name is not unique, or is the name of a column of predictions.

    :param refs: Feast references ``view:feature``
    :param taken: names of other columns
    """
    short = [ref.partition(":")[2] for ref in refs]
    return [
        ref.replace(":", "__") if short.count(name) > 1 or name in taken or is_reserved(name) else name
        for ref, name in zip(refs, short, strict=True)
    ]
