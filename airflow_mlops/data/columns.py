"""Names and definitions of columns that several stages share. Imported by specs, so it must stay light."""

from __future__ import annotations

from airflow_mlops.core.base import Model

PREDICTION_COLUMNS = ("prediction", "score", "model_name", "model_version", "scored_at", "latency_ms")
"""The columns that scoring adds to each row."""

LABEL, LABEL_AT = "label", "label_at"
"""The columns that joining labels adds to each prediction: the label, and when it became known."""


class LabelColumn(Model):
    """Defines a label.

    :param name: name of the label
    :param expression: how to compute it from other columns, for example ``arr_delay > 15``; by default the label is the
        column ``name``
    """

    name: str
    expression: str | None = None
