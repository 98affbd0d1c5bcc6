"""The interface of a warehouse, which joins the rows of one feature view to a stream of events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import FeatureStoreError, OfflineStoreError
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.feast.warehouse.view import SqlView, sql_view

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore


@dataclass(frozen=True)
class Events:
    """A stream of events for a warehouse.

    :param schema: number of the event (``view.EVENT``), event time (``view.EVENT_TIME``), and the join keys of the view
    :param batches: the events
    :param first: earliest event time, in UTC
    :param last: latest event time, in UTC
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    first: datetime
    last: datetime

    def bounds(self, margin: timedelta) -> tuple[datetime, datetime]:
        """Return the first and the last event time, each moved outwards by ``margin``, without a time zone."""
        first, last = self.first.replace(tzinfo=None), self.last.replace(tzinfo=None)
        return (
            first - margin if first - datetime.min >= margin else datetime.min,
            last + margin if datetime.max - last >= margin else datetime.max,
        )


class Warehouse(ABC):
    """The offline store of a Feast repository that joins by SQL.

    :param store: the Feast repository
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def view(self, request: ViewRequest) -> SqlView:
        """Make the feature view for Feast's SQL.

        :raises FeatureStoreError: Feast's SQL cannot join this view correctly
        """
        return sql_view(request)

    def accepts(self, schema: pa.Schema) -> bool:
        """Return whether the store can join events with these columns. Otherwise, Feast gets the events in pandas."""
        return True

    @abstractmethod
    def join(self, view: SqlView, events: Events) -> Iterator[pa.RecordBatch]:
        """Yield the rows that Feast's join returns, in any order, with the columns ``view.result``.

        :raises OfflineStoreError: the store failed, and a retry may succeed
        :raises FeatureStoreError: the store rejects the query, and would reject it again
        """

    def cancel(self) -> bool:
        """Cancel the query that :meth:`join` is running in another thread.

        :return: whether the store can cancel a query
        """
        return False


def failure(
    name: str, view: SqlView, message: str, advice: str, *, final: bool
) -> FeatureStoreError | OfflineStoreError:
    """Return the error of a join that failed in the store.

    :param name: name of the store
    :param message: the store's own error
    :param advice: what the user can do
    :param final: whether a retry would fail again
    """
    kind = FeatureStoreError if final else OfflineStoreError
    return kind(
        f"{name}, the offline store of the Feast repository, failed for feature view {view.request.view.name!r}: "
        f"{message.rstrip('. ')}. {advice}"
    )
