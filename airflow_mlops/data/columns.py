"""Names of columns and datasets that several stages use. Specs import this module, so it must import quickly."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, get_args

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import named

PREDICTION_COLUMNS = ("prediction", "score", "model_name", "model_version", "scored_at", "latency_ms")
"""The columns that scoring adds to each row."""

INTERVAL_COLUMNS = ("prediction_lower", "prediction_upper")
"""The columns that scoring adds after ``score`` for models with prediction intervals: the ends of the intervals."""

ATTRIBUTION_COLUMNS = ("attributions", "attribution_base")
"""The columns that scoring adds with ``explain``: the attribution of each feature, and the base they are added to."""

ADDED_COLUMNS = (*PREDICTION_COLUMNS, *INTERVAL_COLUMNS, *ATTRIBUTION_COLUMNS)
"""All columns that scoring may add."""

Apart = Literal["shadow", "canary"]
"""The kinds of predictions that are stored separately from those of the champion.

``shadow`` predictions come from a version whose predictions are not used. ``canary`` predictions come from a version
that answers a share of the requests. The kind is a key in the details of the manifests of these predictions.
"""

LABEL, LABEL_AT = "label", "label_at"
"""The columns that JoinLabelsOperator adds to predictions: the label, and the time at which it became known."""


_RESERVED = frozenset({*ADDED_COLUMNS, LABEL, LABEL_AT})


def predictions_name(model: str, apart: Apart | None = None) -> str:
    """Return the default name of the datasets of predictions of a model.

    :param model: name of the model
    :param apart: kind of the predictions, if they are stored separately; ``None`` for the champion's predictions
    """
    return f"{model}_{apart}_predictions" if apart else f"{model}_predictions"


def kept_apart(details: Mapping[str, Any]) -> Apart | None:
    """Return the kind of predictions that are stored separately from those of the champion, such as ``shadow``.

    :param details: details of the manifest of predictions or of labelled predictions
    :return: the kind; ``None`` for the champion's own predictions
    """
    return next((kind for kind in get_args(Apart) if details.get(kind)), None)


def is_reserved(name: str) -> bool:
    """Return whether scoring or JoinLabelsOperator adds a column with this name to predictions."""
    return name in _RESERVED


def event_column(name: str) -> str:
    """Return the name that a column of the events has in a training set: ``event__NAME`` if ``NAME`` is reserved."""
    return f"event__{name}" if is_reserved(name) else name


def reserved_message(names: Iterable[str], where: str) -> str | None:
    """Return an error message if a column has a reserved name, otherwise ``None``.

    The names of the columns that scoring and JoinLabelsOperator add to predictions are reserved.

    :param names: names of features, keys, event time and watched columns
    :param where: the start of the message, such as ``Dataset 'rows'``
    """
    taken = [name for name in dict.fromkeys(names) if is_reserved(name)]
    if not taken:
        return None
    return (
        f"{where} has the {named('column', taken)}, but scoring or label joins add columns of the same "
        "name to the predictions. Rename columns where the data is ingested, in SQL with `AS`, or in Feast with "
        "`field_mapping`."
    )


def check_private(hashed: Collection[str], dropped: Collection[str], conn_id: str | None) -> None:
    """Check the parameters ``hash_columns``, ``drop_columns`` and ``hash_conn_id`` of a step that writes predictions.

    :param hashed: columns that are replaced by keyed hashes
    :param dropped: columns that are not written
    :param conn_id: id of the Airflow connection with the secret key for the hashes
    :raises ValueError: ``conn_id`` is missing, a column is in both ``hashed`` and ``dropped``, or a column is one that
        scoring adds
    """
    if hashed and not conn_id:
        raise ValueError(
            "`hash_columns` needs a secret key. Set `hash_conn_id` to a connection whose password is this key."
        )
    if both := {*hashed} & {*dropped}:
        raise ValueError(
            f"`hash_columns` and `drop_columns` both have the {named('column', sorted(both))}. Name each column in only one "
            "of them."
        )
    if own := [name for name in ADDED_COLUMNS if name in {*hashed, *dropped}]:
        raise ValueError(
            f"Scoring adds the {named('column', own)}, which cannot be hashed or dropped. Correct "
            "`hash_columns` and `drop_columns`."
        )


class LabelColumn(Model):
    """The definition of a label.

    :param name: name of the label
    :param expression: expression over other columns that computes the label, for example ``arr_delay > 15``; by default
        the label is the column ``name``
    """

    name: str
    expression: str | None = None
