"""Names and definitions of columns that several stages use. Specs import this module, so it must import quickly."""

from __future__ import annotations

from collections.abc import Iterable

from airflow_mlops.core.base import Model

PREDICTION_COLUMNS = ("prediction", "score", "model_name", "model_version", "scored_at", "latency_ms")
"""The columns that scoring adds to each row."""

LABEL, LABEL_AT = "label", "label_at"
"""The columns that JoinLabelsOperator adds to predictions: the label, and the time at which it became known."""


def reserved_message(names: Iterable[str], where: str) -> str | None:
    """Return an error message if a column has a reserved name, otherwise ``None``.

    Reserved are the names of the columns that scoring and JoinLabelsOperator add to predictions.

    :param names: names of features, keys, event time and watched columns
    :param where: the start of the message, such as ``Dataset 'rows'``
    """
    added = {*PREDICTION_COLUMNS, LABEL, LABEL_AT}
    taken = [name for name in dict.fromkeys(names) if name in added]
    if not taken:
        return None
    return (
        f"{where} has the column {', '.join(map(repr, taken))}, but predictions, which copy this column, have a column of "
        "their own with this name. Rename the column where the data is ingested, in SQL with `AS`, or in Feast with "
        "`field_mapping`."
    )


class LabelColumn(Model):
    """The definition of a label.

    :param name: name of the label
    :param expression: expression over other columns that computes the label, for example ``arr_delay > 15``; by default
        the label is the column ``name``
    """

    name: str
    expression: str | None = None
