"""Resolve a feature service or a list of features to the views to look up and to compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import FeatureStoreError

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore


@dataclass(frozen=True)
class ViewRequest:
    """Features of one view.

    :param view: Feast's feature view
    :param alias: the name of the view in references to its features; a feature service may rename a view
    :param join_keys: the column of the events for each join key of the view
    :param features: the Arrow type of each feature
    """

    view: Any
    alias: str
    join_keys: dict[str, str]
    features: dict[str, pa.DataType]


@dataclass(frozen=True)
class OnDemandRequest:
    """Features that Feast computes from features of other views and columns of the events."""

    view: Any
    alias: str
    features: list[str]


@dataclass(frozen=True)
class FeatureRequest:
    """All features to join.

    :param refs: the requested features as ``view:feature``, in order
    :param views: the views to look up, including those that on-demand views need
    :param on_demand: the on-demand views to compute
    """

    refs: list[str]
    views: list[ViewRequest]
    on_demand: list[OnDemandRequest]

    @property
    def join_keys(self) -> list[str]:
        """The columns of the events that are join keys, in order."""
        return list(dict.fromkeys(column for request in self.views for column in request.join_keys.values()))

    @property
    def event_columns(self) -> list[str]:
        """The columns of the events that are inputs of on-demand views."""
        return list(dict.fromkeys(name for item in self.on_demand for name in item.view.get_request_data_schema()))


def resolve(store: FeatureStore, service: str | None, features: Sequence[str] | None) -> FeatureRequest:
    """Find the views of a feature service or of a list of features.

    :param service: the name of a feature service
    :param features: instead of a service, references ``view:feature``
    :raises FeatureStoreError: the repository has no such service, view or feature
    """
    from feast.types import from_feast_to_pyarrow_type

    known: dict[str, Any] = {view.name: view for view in store.list_all_feature_views()}
    entities = {entity.name: entity.join_key for entity in store.list_entities()}
    refs: list[str] = []
    views: dict[str, ViewRequest] = {}
    on_demand: list[OnDemandRequest] = []

    def add(name: str, alias: str, wanted: list[str], join_key_map: dict[str, str]) -> None:
        view = known.get(name)
        if view is None:
            raise FeatureStoreError(
                f"Feast project {store.project} has no feature view {name!r}: "
                f"it has {', '.join(sorted(known)) or 'none'}. Has the repository been applied?"
            )
        types = {field.name: field.dtype for field in view.features}
        missing = [feature for feature in wanted if feature not in types]
        if missing:
            raise FeatureStoreError(
                f"Feature view {name!r} has no feature {', '.join(map(repr, missing))}: it has {', '.join(types)}."
            )
        if hasattr(view, "source_feature_view_projections"):
            for source in view.source_feature_view_projections.values():
                sources = [field.name for field in source.features]
                add(source.name, source.name_to_use(), sources, dict(source.join_key_map or {}))
            on_demand.append(OnDemandRequest(view, alias, wanted))
            return
        if getattr(view, "batch_source", None) is None or not hasattr(view, "entity_columns"):
            raise FeatureStoreError(f"Feature view {name!r} has no batch source, so it has no history to join.")
        own_keys = [entities.get(entity, entity) for entity in view.entities]
        join_keys = {key: join_key_map.get(key, key) for key in own_keys if not key.startswith("__dummy")}
        found = views.get(alias)
        features = dict(found.features) if found else {}
        features.update({feature: from_feast_to_pyarrow_type(types[feature]) for feature in wanted})
        views[alias] = ViewRequest(view, alias, join_keys, features)

    for name, alias, wanted, join_key_map in _projections(store, service, features):
        add(name, alias, wanted, join_key_map)
        refs += [f"{alias}:{feature}" for feature in wanted]
    return FeatureRequest(list(dict.fromkeys(refs)), list(views.values()), on_demand)


def _projections(
    store: FeatureStore, service: str | None, features: Sequence[str] | None
) -> Iterator[tuple[str, str, list[str], dict[str, str]]]:
    """View, alias, features and join key map of each requested view or feature."""
    if service is None:
        for ref in features or ():
            name, colon, feature = ref.partition(":")
            if not (name and colon and feature):
                raise FeatureStoreError(f"{ref!r} is not a reference to a feature: write it as view:feature.")
            yield name, name, [feature], {}
        return
    known = {item.name: item for item in store.list_feature_services()}
    if service not in known:
        raise FeatureStoreError(
            f"Feast project {store.project} has no feature service {service!r}: "
            f"it has {', '.join(sorted(known)) or 'none'}. Has the repository been applied?"
        )
    projections: list[Any] = known[service].feature_view_projections
    for item in projections:
        names = [field.name for field in item.features]
        yield item.name, item.name_to_use(), names, dict(item.join_key_map or {})
