"""Look up the features of requests in Feast's online store, for versions whose training set has features of Feast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import FeatureStoreError, SchemaError
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.data.feast.logged import entity_types, feature_refs
from airflow_mlops.serving.rows.request import InputColumns, Rows, as_column

if TYPE_CHECKING:
    from feast import FeatureStore

    from airflow_mlops.data.feast.request import FeatureRequest


class OnlineFeatures:
    """A Feast repository. All calls of Feast are made by one thread, because Feast redirects the output of the process.

    :param repo: folder of the repository
    """

    def __init__(self, repo: str) -> None:
        self._repo = repo
        self._store: FeatureStore | None = None
        self._thread = ThreadPoolExecutor(1, "mlops-feast")

    def lookup(self, contract: ModelContract, columns: InputColumns, training: Manifest | None) -> Lookup | None:
        """Return the lookup for a version; ``None`` if no feature of the version comes from Feast.

        :param contract: contract of the version
        :param columns: the fields of a row of a request
        :param training: manifest of the training set; ``None`` if it no longer exists
        :raises FeatureStoreError: the repository cannot be used, or no longer has a feature of the version
        """
        if training is None:
            return None
        wanted = feature_refs(training, {*(feature.name for feature in contract.features), *columns.carried})
        if not wanted:
            return None
        return self._thread.submit(self._plan, training, columns, wanted).result()

    def _plan(self, training: Manifest, columns: InputColumns, wanted: dict[str, str]) -> Lookup:
        from airflow_mlops.data.feast import repository, request

        if self._store is None:
            self._store = repository.open_store(self._repo)
        store, service = self._store, training.details.get("feature_service")
        refs = list(dict.fromkeys(wanted.values()))
        if missing := repository.missing_features(store, service, refs):
            raise FeatureStoreError(
                f"The Feast repository {self._repo} no longer has the feature {missing[0]!r}. The model was "
                "trained with this feature. Add it again, or train the model without it."
            )
        with repository.locked(store, shared=True):
            plan = request.resolve(store, service, None if service else refs)
        # The registry is not read again. Later changes concern later versions of the model, and the file of the
        # registry may be incomplete while it is written.
        registry: Any = store.registry
        with suppress(AttributeError):
            registry.cached_registry_proto_ttl = timedelta(0)
        return Lookup(store, plan, columns, wanted, self._thread)


class Lookup:
    """Looks up the features of one version.

    :param store: Feast's repository
    :param request: the features to look up
    :param columns: the fields of a row of a request without lookup
    :param wanted: Feast reference ``view:feature`` of each looked-up column, by name of the column
    :param thread: the thread that must call :meth:`rows`
    """

    def __init__(
        self,
        store: FeatureStore,
        request: FeatureRequest,
        columns: InputColumns,
        wanted: Mapping[str, str],
        thread: Executor,
    ) -> None:
        self.thread = thread
        self._store, self._request, self._columns, self._wanted = store, request, columns, wanted
        self._entities = entity_types(request)
        self._given = [feature.name for feature in columns.features if feature.name not in wanted]
        self._known = {*self._entities, *self._given, *(columns.carried.keys() - wanted.keys())}

    @property
    def fields(self) -> list[str]:
        """Return the fields that each entity must have: join keys, and features that are known with the request."""
        return list(dict.fromkeys([*self._entities, *self._given]))

    def rows(self, entities: Sequence[Mapping[str, Any]]) -> tuple[Rows, list[list[str]]]:
        """Look up the features of entities, which are JSON objects.

        :return: the rows with all features, and the looked-up features of each row that are null
        :raises SchemaError: a field is missing, unknown or of the wrong type, or a feature that the model needs is
            null. The message names the row, from 1, and the field
        :raises FeatureStoreError: the online store cannot be read
        """
        from airflow_mlops.data.feast.online import look_up

        self._check(entities)
        keys = {name: as_column([row[name] for row in entities], name, kind) for name, kind in self._entities.items()}
        found = look_up(self._store, self._request, pa.table(keys), datetime.now(timezone.utc))
        values: dict[str, list[Any]] = {name: _plain(found[ref]) for name, ref in self._wanted.items()}
        missing = [
            [name for name, column in values.items() if column[number] is None] for number in range(len(entities))
        ]
        features = values | {name: [row[name] for row in entities] for name in self._given}
        carried = {name: values[name] for name in self._columns.carried if name in values}
        for name in self._columns.carried.keys() - values.keys():
            if any(name in row for row in entities):
                carried[name] = [row.get(name) for row in entities]
        return self._columns.checked(features, carried, len(entities), values), missing

    def _check(self, entities: Sequence[Mapping[str, Any]]) -> None:
        for number, row in enumerate(entities, 1):
            if not isinstance(row, dict):
                raise SchemaError(
                    f"Entity {number} is not a JSON object. Send each entity as an object with the fields {', '.join(self.fields)}."
                )
            if looked_up := row.keys() & self._wanted.keys() - self._known:
                raise SchemaError(
                    f"Entity {number} has the field {min(looked_up)!r}, which the server looks up itself. Remove the field, or send `rows` with all features."
                )
            if unknown := row.keys() - self._known:
                raise SchemaError(
                    f"Entity {number} has the unknown field {min(unknown)[:60]!r}. The fields are: {', '.join(sorted(self._known))}."
                )
            if absent := [name for name in self.fields if name not in row]:
                raise SchemaError(
                    f"Entity {number} has no field {absent[0]!r}. Send null if its value is unknown. Each entity must have the "
                    f"fields {', '.join(self.fields)}."
                )


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Return the values as Python objects. NaN stands for a missing number, as in the point-in-time join."""
    return [None if value != value else value for value in column.to_pylist()]
