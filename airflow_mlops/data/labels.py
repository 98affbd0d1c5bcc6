"""Label columns."""

from __future__ import annotations

from airflow_mlops.core.base import Model


class LabelColumn(Model):
    """Where the label comes from.

    :param name: what the label is called
    :param expression: how it is computed from the labels' columns, as in ``arr_delay > 15``; the column ``name``
        itself unless given
    """

    name: str
    expression: str | None = None
