"""Choose the features of a model, and find those that are known only when the label is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from airflow_mlops.core.counts import counted
from airflow_mlops.data.columns import is_reserved
from airflow_mlops.scaffold import leaks
from airflow_mlops.scaffold.answers import Given, Person
from airflow_mlops.scaffold.columns import ALMOST_ALL, FEWEST, Column, rises_with
from airflow_mlops.scaffold.roles import Roles

# A text column with more categories than this, and with more than half of its values distinct, is an id or free text.
_CATEGORIES = 1_000


class Features(NamedTuple):
    """The features of a model.

    :param names: columns that are features
    :param excluded: columns that are not features, each with the reason
    :param confirmed: features that predict the label almost perfectly. The user has confirmed that they are known at
        the time of the row
    """

    names: list[str]
    excluded: dict[str, str]
    confirmed: list[str]


def choose_features(roles: Roles, given: Given, notes: list[str], person: Person) -> Features:
    """Choose the features.

    :param roles: the columns that have other roles
    :param given: the arguments of the command
    :param notes: sentences for the user, to which those about the features are added
    :param person: answers whether a feature that predicts the label almost perfectly is known at the time of the row
    """
    columns = roles.columns
    excluded = dict.fromkeys(given.exclude, "excluded by you")
    if given.features:
        features = [name for name in given.features if name not in excluded]
        excluded |= {
            name: "not chosen"
            for name in columns
            if name not in (*features, *roles.keys, roles.time, roles.label, *excluded)
        }
    else:
        others = [column for column in columns.values() if column.name not in (roles.time, roles.label, *excluded)]
        reasons = {
            column.name: _reason(column, columns[roles.label], roles.keys, columns[roles.time]) for column in others
        }
        excluded |= {name: reason for name, reason in reasons.items() if reason}
        features = [name for name, reason in reasons.items() if not reason]
    leaking = leaks.find(columns[roles.label], [columns[name] for name in features], roles.task)
    confirmed: list[str] = []
    for name, score in leaking.items():
        alone = f"Column {name!r} alone predicts {roles.label!r} almost perfectly ({score})"
        if name in given.features:
            notes.append(
                f"{alone}. BuildTrainingSetOperator refuses such a feature, because it is usually known only with the label. "
                f"Remove it from --features, or set max_single_feature_score=1 if it is known at {roles.time!r}."
            )
        elif person.confirm(f"{alone}. Is it already known at {roles.time!r}?"):
            confirmed.append(name)
        else:
            features.remove(name)
            excluded[name] = (
                f"alone predicts the label almost perfectly ({score}), so it is probably known only when the label is known"
            )
    return Features(features, excluded, confirmed)


def _reason(column: Column, label: Column, keys: Sequence[str], time: Column) -> str:
    """Return why a column is not a feature; empty if the column can be a feature."""
    rows = len(column.values)
    if column.name in keys:
        return "a key"
    if column.is_time:
        return "a time"
    if column.is_foreign_date:
        return "a date that is not in ISO 8601"
    if column.not_numbers:
        return f"text that contains {', '.join(map(repr, column.not_numbers))} among numbers"
    if column.is_numbers:
        return (
            f"numbers in different notations, such as {column.example}, which are text; to use them, pass "
            f"--types \"{{{column.name!r}: 'float64'}}\" for files, or convert them in the source"
        )
    if column.is_amount:
        return f"text that looks like amounts, such as {column.example!r}"
    if is_reserved(column.name):
        return "named like a column of predictions"
    if column.nulls == rows:
        return "empty"
    if not (column.is_number or column.is_text or str(column.type) == "bool"):
        return f"of the type {column.type}"
    if column.is_number and column.infinite_rows:
        return f"infinite in {counted(column.infinite_rows, 'row')}, which training refuses"
    if column.too_large_rows:
        return f"beyond single precision (3.4e38) in {counted(column.too_large_rows, 'row')}, which training refuses"
    if column.distinct == 1 and not column.nulls:
        return "the same in all rows"
    if leaks.known_with(column, label):
        return "known only when the label is known"
    if column.is_text and _is_free(column):
        return "different in most rows"
    if rises_with(column, time):
        return "a number that counts the rows, so all later rows have new values"
    return ""


def _is_free(column: Column) -> bool:
    """Return whether the values of a text column are free text or ids, and not categories."""
    values = len(column.values) - column.nulls
    return column.distinct > max(_CATEGORIES, values / 2) or column.distinct > max(FEWEST, ALMOST_ALL * values)
