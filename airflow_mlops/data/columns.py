"""Names and definitions of columns that several stages use. Specs import this module, so it imports nothing heavy."""

from __future__ import annotations

from airflow_mlops.core.base import Model

PREDICTION_COLUMNS = ("prediction", "score", "model_name", "model_version", "scored_at", "latency_ms")
"""The columns that scoring adds to each row."""

LABEL, LABEL_AT = "label", "label_at"
"""The columns that JoinLabelsOperator adds to predictions: the label, and the time at which it became known."""


class LabelColumn(Model):
    """The definition of a label.

    :param name: name of the label
    :param expression: expression over other columns that computes the label, for example ``arr_delay > 15``; by default
        the label is the column ``name``
    """

    name: str
    expression: str | None = None
