"""Resolves a feature service or a list of features to the feature views that must be joined or computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import FeatureStoreError, named

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore


@dataclass(frozen=True)
class ViewRequest:
    """The features to join from one feature view.

    :param view: Feast's feature view
    :param alias: name of the view in references ``alias:feature``. It differs from the view's own name if a feature
        service renames the view
    :param join_keys: name of the column in the events, by join key of the view
    :param features: Arrow type by name of the feature
    """

    view: Any
    alias: str
    join_keys: dict[str, str]
    features: dict[str, pa.DataType]


@dataclass(frozen=True)
class OnDemandRequest:
    """The features to compute with one on-demand feature view, from other features and columns of the events.

    :param view: Feast's on-demand feature view
    :param alias: name of the view in references ``alias:feature``
    :param features: names of the features
    """

    view: Any
    alias: str
    features: list[str]


@dataclass(frozen=True)
class FeatureRequest:
    """All features of a training set that come from Feast.

    :param refs: requested features as ``alias:feature``, in order
    :param views: feature views to join, including the inputs of on-demand feature views
    :param on_demand: on-demand feature views to compute
    """

    refs: list[str]
    views: list[ViewRequest]
    on_demand: list[OnDemandRequest]

    @property
    def join_keys(self) -> list[str]:
        """Return the join keys, which are columns of the events, without duplicates, in the order of ``views``."""
        return list(dict.fromkeys(column for request in self.views for column in request.join_keys.values()))

    @property
    def event_columns(self) -> list[str]:
        """Return the columns of the events that are inputs of on-demand feature views, in order."""
        return list(dict.fromkeys(name for item in self.on_demand for name in item.view.get_request_data_schema()))


def resolve(store: FeatureStore, service: str | None, features: Sequence[str] | None) -> FeatureRequest:
    """Resolve a feature service or a list of features to feature views.

    :param service: name of a feature service; ``None`` if ``features`` is given
    :param features: features as ``view:feature``; used if ``service`` is ``None``
    :raises FeatureStoreError: the registry has no such service, view or feature
    """
    known: dict[str, Any] = {view.name: view for view in store.list_all_feature_views()}
    entities = {entity.name: entity.join_key for entity in store.list_entities()}
    refs: list[str] = []
    views: dict[str, ViewRequest] = {}
    on_demand: list[OnDemandRequest] = []

    def add(name: str, alias: str, wanted: list[str], join_key_map: dict[str, str]) -> None:
        view = known.get(name)
        if view is None:
            raise FeatureStoreError(
                f"Feast project {store.project!r} has no feature view {name!r}. Correct the name, or run `feast "
                f"apply`. Registered feature views: {', '.join(sorted(known)) or 'none'}."
            )
        types = {field.name: field.dtype for field in view.features}
        missing = [feature for feature in wanted if feature not in types]
        if missing:
            raise FeatureStoreError(
                f"Feature view {name!r} has no {named('feature', missing)}. Choose from its features: "
                f"{', '.join(types)}."
            )
        if hasattr(view, "source_feature_view_projections"):
            for source in view.source_feature_view_projections.values():
                sources = [field.name for field in source.features]
                add(source.name, source.name_to_use(), sources, dict(source.join_key_map or {}))
            on_demand.append(OnDemandRequest(view, alias, wanted))
            return
        if getattr(view, "batch_source", None) is None or not hasattr(view, "entity_columns"):
            raise FeatureStoreError(
                f"Feature view {name!r} has no batch source, so it has no history to join. Add a batch source, or "
                "remove the features of this feature view."
            )
        own_keys = [entities.get(entity, entity) for entity in view.entities]
        join_keys = {key: join_key_map.get(key, key) for key in own_keys if not key.startswith("__dummy")}
        found = views.get(alias)
        features = dict(found.features) if found else {}
        features.update({feature: arrow_type(types[feature], feature, name) for feature in wanted})
        views[alias] = ViewRequest(view, alias, join_keys, features)

    for name, alias, wanted, join_key_map in _projections(store, service, features):
        add(name, alias, wanted, join_key_map)
        refs += [f"{alias}:{feature}" for feature in wanted]
    return FeatureRequest(list(dict.fromkeys(refs)), list(views.values()), on_demand)


def has_function(view: Any) -> bool:
    """Return whether Feast applies a function to the source of a feature view when it materializes the view."""
    return bool(getattr(view, "feature_transformation", None))


def require_stored(request: FeatureRequest) -> None:
    """Check that the sources of feature views contain the features, because joins read only the sources.

    The batch source of a stream feature view contains the features that its function has computed, unless the view was
    materialized: Feast then applies the function to the batch source.

    :raises FeatureStoreError: Feast computes the features of a view from its source when it materializes the view
    """
    from feast import StreamFeatureView

    for item in request.views:
        is_stored = isinstance(item.view, StreamFeatureView) and not item.view.materialization_intervals
        if has_function(item.view) and not is_stored:
            raise FeatureStoreError(
                f"Feature view {item.view.name!r} has a function, which Feast applies only when it materializes the view. A join would "
                "read the source without it, so training and serving would get different values. Compute the features in the source, "
                "or in an on-demand feature view."
            )


def arrow_type(dtype: Any, field: str, view: str) -> pa.DataType:
    """Convert the type of a feature view's field to an Arrow type.

    :param dtype: a type of :mod:`feast.types`
    :param field: name of the field, for the error message
    :param view: name of the feature view, for the error message
    :raises FeatureStoreError: Feast has no Arrow type for ``dtype``
    """
    from feast.types import from_feast_to_pyarrow_type

    try:
        return from_feast_to_pyarrow_type(dtype)
    except ValueError:
        raise FeatureStoreError(
            f"Field {field!r} of feature view {view!r} has the type {dtype}, for which Feast has no Arrow type. Declare "
            "it as a number, String, Bool, UnixTimestamp, or an Array of them."
        ) from None


def _projections(
    store: FeatureStore, service: str | None, features: Sequence[str] | None
) -> Iterator[tuple[str, str, list[str], dict[str, str]]]:
    """Yield the name, alias, features and join key map of each requested view."""
    if service is None:
        for ref in features or ():
            name, colon, feature = ref.partition(":")
            if not (name and colon and feature):
                raise FeatureStoreError(f"{ref!r} is not a reference to a feature. Write it as `view:feature`.")
            yield name, name, [feature], {}
        return
    known = {item.name: item for item in store.list_feature_services()}
    if service not in known:
        raise FeatureStoreError(
            f"Feast project {store.project!r} has no feature service {service!r}. Correct the name, or run `feast "
            f"apply`. Registered feature services: {', '.join(sorted(known)) or 'none'}."
        )
    projections: list[Any] = known[service].feature_view_projections
    for item in projections:
        names = [field.name for field in item.features]
        yield item.name, item.name_to_use(), names, dict(item.join_key_map or {})
