"""The tables of an SQLite online store. They are lost if, for example, the file of the store is deleted.

Feast's registry then still lists the materialized intervals, and Feast does not compare registry and store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from feast import FeatureStore


def are_local(store: FeatureStore) -> bool:
    """Return whether the online store is a local SQLite file."""
    config = store.config.online_store
    path = str(getattr(config, "path", "") or "")
    return getattr(config, "type", None) == "sqlite" and bool(path) and "://" not in path


def create_missing(store: FeatureStore) -> None:
    """Create the tables that do not exist. Feast creates them only when its registry changes."""
    rows = _has_rows(store)
    views = [view for view in _views(store) if rows.get(view.name, False) is None]
    if views:
        create(store, views)


def create(store: FeatureStore, views: Sequence[Any] | None = None) -> None:
    """Create the tables of feature views if they do not exist. The online store can be of any type.

    :param views: the feature views; by default all that are served online
    """
    store.provider.update_infra(
        project=store.project,
        tables_to_delete=[],
        tables_to_keep=views if views is not None else [view for view in _views(store) if view.online],
        entities_to_delete=[],
        entities_to_keep=[],
        partial=True,
    )


def without_rows(store: FeatureStore, views: Collection[str]) -> dict[str, datetime]:
    """Find the feature views that were materialized, but have no row in the online store.

    :param store: the Feast repository
    :param views: names of feature views
    :return: the start of the first materialized interval, by feature view; empty if the online store is not a local
        SQLite file
    """
    has_rows = _has_rows(store)
    return {
        view.name: min(start for start, _ in view.materialization_intervals)
        for view in _views(store)
        if view.name in views and not has_rows.get(view.name, True) and view.materialization_intervals
    }


def _views(store: FeatureStore) -> list[Any]:
    return [*store.list_batch_feature_views(), *store.list_stream_feature_views()]


def _has_rows(store: FeatureStore) -> dict[str, bool | None]:
    """Return for each feature view whether its table has a row; ``None`` if the table does not exist.

    The result is empty if the online store is not a local SQLite file.
    """
    if not are_local(store):
        return {}
    from feast.infra.online_stores.helpers import compute_table_id

    versioned = store.config.registry.enable_online_feature_view_versioning
    tables = {view.name: compute_table_id(store.project, view, versioned) for view in _views(store) if view.online}
    file = Path(store.repo_path) / store.config.online_store.path
    if not file.exists():
        return dict.fromkeys(tables)
    # If the file cannot be read, Feast reports it.
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
        present = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {view: _has_row(database, table) if table in present else None for view, table in tables.items()}
    return {}


def _has_row(database: sqlite3.Connection, table: str) -> bool:
    name = '"' + table.replace('"', '""') + '"'
    return database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() is not None  # noqa: S608 - quoted
