"""The feature view that Feast's SQL template gets in place of the view of the repository.

The template of Feast 0.67 has defects, which another view avoids:

- It puts names into SQL that are too long for PostgreSQL, or not quoted in Spark. Every name here is short and plain.
- It drops rows whose creation time is null, although they may be the newest. The view here has no creation time: the
  template then returns all rows of the newest time, and :mod:`airflow_mlops.data.feast.warehouse.rows` chooses one.
- It does not return the time of the joined row. Here, this time is a feature, so that it can be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_mlops.core.errors import FeatureStoreError
from airflow_mlops.data.feast.request import ViewRequest

EVENT, EVENT_TIME = "mlops_event", "event_timestamp"
_VIEW = "mlops"


@dataclass(frozen=True)
class SqlView:
    """A feature view with short names.

    :param request: the feature view of the repository, and its features
    :param view: the feature view for Feast
    :param keys: column of the events, by join key of ``view``
    :param features: column of the result, by feature
    :param time: column of the result with the time of the joined row
    :param created: column of the result with the creation time of the joined row; ``None`` if the source has none
    """

    request: ViewRequest
    view: Any
    keys: dict[str, str]
    features: dict[str, str]
    time: str
    created: str | None

    @property
    def result(self) -> list[str]:
        """Return the columns of the result: number of the event, then the columns of the source."""
        own = [self.time, *([self.created] if self.created else []), *self.features.values()]
        return [EVENT, *dict.fromkeys(own)]

    @property
    def refs(self) -> list[str]:
        """Return the references ``view:column`` of the columns of the source, for Feast."""
        return [f"{_VIEW}:{name}" for name in self.result[1:]]


def sql_view(request: ViewRequest) -> SqlView:
    """Make the feature view for Feast.

    :raises FeatureStoreError: the time to live of the view is not a whole number of seconds, which Feast would round
    """
    view, source = request.view, request.view.batch_source
    verify_ttl(view)
    column = column_names(source)
    names: dict[str, str] = {}
    keys = {}
    for number, (key, of_events) in enumerate(request.join_keys.items()):
        keys[names.setdefault(column(key), f"k{number}")] = of_events
    features = {name: names.setdefault(column(name), f"f{number}") for number, name in enumerate(request.features)}
    time = names.setdefault(column(source.timestamp_field), "row_time")
    created = None
    if source.created_timestamp_column:
        created = names.setdefault(column(source.created_timestamp_column), "row_created")

    made_source = shallow(source)
    made_source.field_mapping = names
    made_source.timestamp_field = column(source.timestamp_field)
    made_source.created_timestamp_column = ""
    chosen = [*dict.fromkeys([*features.values(), time, *([created] if created else [])])]
    return SqlView(request, with_source(view, made_source, list(keys), chosen), keys, features, time, created)


def verify_ttl(view: Any) -> None:
    """Verify that Feast's SQL does not round the time to live of a feature view.

    :raises FeatureStoreError: the time to live is not a whole number of seconds
    """
    if view.ttl and view.ttl % timedelta(seconds=1):
        raise FeatureStoreError(
            f"The ttl of feature view {view.name!r} is {view.ttl}, but Feast rounds it down to whole seconds in this "
            "offline store. Set a ttl of whole seconds."
        )


def column_names(source: Any) -> Callable[[str], str]:
    """Return the function that gives the column of ``source`` for a name that its field mapping may have changed."""
    originals = {new: old for old, new in source.field_mapping.items()}
    return lambda name: originals.get(name, name)


def with_source(view: Any, source: Any, keys: list[str], columns: list[str]) -> Any:
    """Return a copy of a feature view with the name ``mlops`` and another source.

    :param keys: join keys of the copy
    :param columns: features of the copy
    """
    from feast import Field
    from feast.types import String

    made = shallow(view)
    made.batch_source = source
    # Feast takes only the names from here. The types are those of the source.
    made.entity_columns = [Field(name=key, dtype=String) for key in keys]
    made.projection = shallow(view.projection)
    made.projection.name, made.projection.name_alias, made.projection.version_tag = _VIEW, None, None
    made.projection.features = [Field(name=name, dtype=String) for name in columns]
    made.projection.join_key_map = {}
    return made


def shallow(item: Any) -> Any:
    """Copy an object of Feast. Its dictionaries are copied, too."""
    # copy() of a feature view calls its constructor, which rejects other names.
    made = object.__new__(type(item))
    made.__dict__.update(
        {name: copy(value) if isinstance(value, dict) else value for name, value in vars(item).items()}
    )
    return made
