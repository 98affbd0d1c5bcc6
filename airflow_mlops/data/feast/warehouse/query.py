"""Feast's SQL for the stores BigQuery, Redshift and Snowflake, on a query that renames the columns of the source.

Feast's own method uploads the events with pandas, or copies the result of a query to a second table. Here, the events
are already in a table of the store, and Feast only writes the SQL of the join.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.feast.warehouse.base import Events
from airflow_mlops.data.feast.warehouse.passes import has_one_text
from airflow_mlops.data.feast.warehouse.view import (
    EVENT,
    EVENT_TIME,
    SqlView,
    column_names,
    shallow,
    verify_ttl,
    with_source,
)

if TYPE_CHECKING:
    from feast import FeatureStore

# Text in quotes, or the word `undefined` outside of quotes.
_UNDEFINED = re.compile(r'"(?:\\.|[^"\\])*"|undefined')
TIME, CREATED, PARTITION = "row_time", "row_created", "row_partition"


def query_view(
    request: ViewRequest, quoted: Callable[[str], str], query: Callable[[str, dict[str, str]], str] | None = None
) -> SqlView:
    """Make a feature view whose source is a query, with short names that need no quotes.

    :param quoted: function that quotes the name of a column
    :param query: function that makes the query, from the table and the SQL expression of each column. By default, the
        query selects the columns
    :raises FeatureStoreError: the time to live of the view is not a whole number of seconds
    """
    view, source = request.view, request.view.batch_source
    verify_ttl(view)
    column = column_names(source)
    keys = {f"k{number}": name for number, name in enumerate(request.join_keys.values())}
    features = {name: f"f{number}" for number, name in enumerate(request.features)}
    selected = {f"k{number}": quoted(column(key)) for number, key in enumerate(request.join_keys)}
    selected |= {short: quoted(column(name)) for name, short in features.items()}
    selected[TIME] = quoted(column(source.timestamp_field))
    if source.created_timestamp_column:
        selected[CREATED] = quoted(column(source.created_timestamp_column))
    partition = source.date_partition_column
    if partition:
        selected[PARTITION] = quoted(column(partition))

    made = shallow(source)
    made.field_mapping = {}
    made.timestamp_field, made.created_timestamp_column = TIME, ""
    made.date_partition_column = PARTITION if partition else ""
    sql = (query or select)(source.get_table_query_string(), selected)
    made.get_table_query_string = lambda: f"({sql}) AS mlops_source"
    created = CREATED if CREATED in selected else None
    columns = [*features.values(), TIME, *([created] if created else [])]
    return SqlView(request, with_source(view, made, list(keys), columns), keys, features, TIME, created)


def select(table: str, columns: dict[str, str]) -> str:
    """Return the query of columns under other names."""
    return f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in columns.items())} FROM {table} AS mlops_table"  # noqa: S608


def join_sql(
    store: FeatureStore,
    view: SqlView,
    events: Events,
    table: str,
    template: str,
    adapt: Callable[[Any], Any] = lambda contexts: contexts,
) -> str:
    """Return Feast's SQL of the point-in-time join.

    :param events: the events, of which only the first and the last time are used
    :param table: table with the columns of ``events``
    :param template: Feast's template of the store
    :param adapt: function that changes the parameters of the template as Feast's store does
    """
    from feast.infra.offline_stores import offline_utils

    with feast_repo.quietly():
        with feast_repo.locked(store, shared=True):
            contexts = offline_utils.get_feature_view_query_context(
                view.refs, [view.view], store.registry, store.project, (events.first, events.last)
            )
        sql: str = offline_utils.build_point_in_time_query(
            adapt(contexts),
            left_table_query_string=table,
            entity_df_event_timestamp_col=EVENT_TIME,
            entity_df_columns=dict.fromkeys([EVENT, *view.keys, EVENT_TIME]).keys(),
            query_template=template,
        )
    return sql


def keys_have_one_text(schema: pa.Schema) -> bool:
    """Return whether Feast's SQL, which identifies events by the text of their join keys, cannot confuse two events."""
    return all(has_one_text(field.type) for field in schema if field.name not in (EVENT, EVENT_TIME))


def without_json(batch: pa.RecordBatch, view: SqlView) -> pa.RecordBatch:
    """Select the columns ``view.result``. Features that are declared as lists, but returned as JSON text, become lists.

    :raises FeatureStoreError: the text of a list is not JSON
    """
    columns = {name: batch.column(name) for name in view.result}
    for feature, name in view.features.items():
        found = columns[name]
        is_text = pa.types.is_string(found.type) or pa.types.is_large_string(found.type)
        if is_text and pa.types.is_list(view.request.features[feature]):
            try:
                columns[name] = pa.array([None if text is None else _parsed(text) for text in found.to_pylist()])
            except ValueError as error:
                raise FeatureStoreError(
                    f"Feature {feature!r} of feature view {view.request.view.name!r} is declared as a list, but the offline store returned "
                    f"text that is not a list in JSON: {one_line(error)}. Correct the declared type or the source."
                ) from None
    return pa.record_batch(columns)


def _parsed(text: str) -> Any:
    # In Snowflake, null in an array is written as `undefined`.
    return json.loads(_UNDEFINED.sub(lambda found: "null" if found[0] == "undefined" else found[0], text))
