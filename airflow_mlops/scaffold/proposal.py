"""Propose the columns and the schedule of a model's DAGs, from a sample of the data and the user's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import Task
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError, listed, named
from airflow_mlops.data.types import as_numbers
from airflow_mlops.scaffold import schedules
from airflow_mlops.scaffold.answers import Every, Given, Person
from airflow_mlops.scaffold.columns import Column, lookalikes, span, twins
from airflow_mlops.scaffold.features import choose_features
from airflow_mlops.scaffold.roles import Roles, choose_roles
from airflow_mlops.stages.training_set.labels import LabelValues, infer_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_mlops.scaffold.sample import Sample

# Number of rows that a window should have, so that monitoring can distinguish a change from random variation.
_WINDOW_ROWS = 300
# With fewer windows between the first and the last time, empty windows are not unusual.
_FEWEST_WINDOWS = 24
# The partition keys of earlier windows would have years of fewer than four digits.
_FIRST_YEAR = 1000
_MONTHS_SPAN, _WEEKS_SPAN = timedelta(days=120), timedelta(days=42)
# A label with more distinct whole numbers than this rarely has classes.
_MANY_CLASSES = 100
_LENGTH = {"day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}


@dataclass(frozen=True)
class Proposal:
    """The columns and the schedule of the DAGs.

    :param columns: all columns of the sample by name
    :param time: column with the time of each row
    :param keys: columns that identify a row
    :param label: column that the model predicts
    :param features: columns that are features
    :param excluded: columns that are not features, each with the reason
    :param task: ML task: ``binary``, ``multiclass`` or ``regression``
    :param positive: label of the positive class, for text labels of a binary task; otherwise ``None``
    :param delay: time after which the label of a row is known
    :param every: length of a window
    :param timezone: name of the time zone of the windows
    :param first: first time in the sample, in the time zone of the windows
    :param last: last time in the sample, in the time zone of the windows
    :param window_rows: mean number of rows of a window of the sample, rounded down
    :param confirmed: features that predict the label almost perfectly. The user has confirmed that they are known at
        the time of the row
    """

    columns: dict[str, Column]
    time: str
    keys: list[str]
    label: str
    features: list[str]
    excluded: dict[str, str]
    task: Task
    positive: str | None
    delay: timedelta
    every: Every
    timezone: str
    first: datetime
    last: datetime
    window_rows: int
    confirmed: list[str]


def propose(sample: Sample, given: Given, person: Person) -> Proposal:
    """Return a proposal for the data.

    :param sample: sample of the data; notes can be added to it
    :param given: the arguments of the command
    :param person: answers the questions that the data and the arguments leave open
    :raises SpecError: the data or an answer does not fit, for example because no column contains times
    """
    roles = choose_roles(sample, given, person)
    sample.notes.extend(_doubts_about_values(roles, given.features))
    features, excluded, confirmed = choose_features(roles, given, sample.notes, person)
    if not features:
        raise SpecError(
            "No column is left that could be a feature: "
            + "; ".join(f"{name!r} ({reason})" for name, reason in excluded.items())
            + ". Name the features with --features."
            + "".join(f" {note}" for note in sample.notes)
        )
    sample.notes.extend(
        f"Column {name!r} has values such as {' and '.join(roles.columns[name].alike)}, which differ only by blanks, "
        "letter case or Unicode form, so they are different categories. Correct them in the source."
        for name in features
        if roles.columns[name].alike
    )
    sample.notes.extend(
        f"Column {name!r} has the value {code:g} {where}, far from all others. If it means a missing value, read it as null, in CSV "
        f"files with --csv \"{{'na_values': ['{code:g}']}}\", or create a view with NULLIF for a table."
        for name, code, where in _codes(roles, features)
    )
    if same := [name for name in (roles.time, *roles.keys, *features) if twins(roles.columns, name)]:
        sample.notes.append(
            f"The suite has no expectations for {named('column', same)}, because another name differs only by letter case, which "
            "Great Expectations ignores. Rename one of the columns in the source."
        )
    if same := lookalikes(roles.columns):
        sample.notes.append(
            f"The columns {' and '.join(same)} look the same, because their names differ only by Unicode form. Rename one of them in the "
            "source."
        )
    first, last = span(roles.columns[roles.time], given.timezone)
    every = given.every or _every(last - first, len(sample.table))
    _require_windows(roles.time, every, first, last)
    sample.notes.extend(_doubts_about_times(roles, given.timezone, every, first, last))
    windows = max(1, round((last - first) / _LENGTH[every]))
    return Proposal(
        columns=roles.columns, time=roles.time, keys=roles.keys, label=roles.label, features=features, excluded=excluded,
        task=roles.task, positive=roles.positive, delay=roles.delay, every=every, timezone=given.timezone, first=first, last=last,
        window_rows=len(sample.table) // windows, confirmed=confirmed,
    )  # fmt: skip


def _codes(roles: Roles, features: Sequence[str]) -> list[tuple[str, Any, str]]:
    """Return the columns of numbers with a value that probably means a missing value, the value, and in how many rows."""
    import pyarrow.compute as pc

    found = [(name, roles.columns[name].code) for name in (roles.label, *features)]
    return [
        (name, code, f"in {counted(pc.sum(pc.equal(roles.columns[name].values, code)).as_py(), 'row')}")
        for name, code in found
        if code is not None
    ]


def _require_windows(time: str, every: Every, first: datetime, last: datetime) -> None:
    """Check that all windows are within the years that a partition key can contain.

    :raises SpecError: a window begins before the year 1000, or ends after the year 9999
    """
    try:
        schedules.bounds(every, first, last)
        are_valid = first.year >= _FIRST_YEAR
    except OverflowError:
        are_valid = False
    if not are_valid:
        raise SpecError(
            f"Column {time!r} contains times from {first.date()} to {last.date()}, but the {every}s of all rows must be within the years "
            f"{_FIRST_YEAR} to 9999. If such a time means that the time is unknown, replace it with null in the source."
        )


def _doubts_about_times(roles: Roles, timezone: str, every: Every, first: datetime, last: datetime) -> list[str]:
    """Return a sentence about the first and the last time if most windows between them have no rows."""
    import pyarrow.compute as pc

    begin, end = schedules.bounds(every, first, last)
    windows = round((end - begin) / _LENGTH[every])
    starts = pc.floor_temporal(roles.columns[roles.time].local_times(timezone), unit=every)
    filled = pc.count_distinct(starts).as_py()
    if windows < _FEWEST_WINDOWS or 2 * filled > windows:
        return []
    return [
        (
            f"Only {filled:,} of about {windows:,} {every}s from {first:%Y-%m-%d} to {last:%Y-%m-%d} have rows. Times such as 1970-01-01 "
            f"or 2099-12-31 often mean that the time is unknown. If this is so in column {roles.time!r}, replace them with null in the source."
        )
    ]


def _doubts_about_values(roles: Roles, features: Sequence[str]) -> list[str]:
    """Return sentences about values of the label and the given features that are probably not read as intended."""
    import pyarrow as pa

    notes: list[str] = []
    notes.extend(
        f"Column {name!r} contains {listed(roles.columns[name].not_numbers)} among numbers, so each value is a category. Read these "
        "texts as null, or correct them in the source."
        for name in (roles.label, *features)
        if roles.columns[name].not_numbers
    )
    notes.extend(
        f"Column {name!r} looks like amounts, such as {roles.columns[name].example!r}, but it is text, so each value is a "
        "category. To use the amounts, convert the column to numbers in the source."
        for name in (roles.label, *features)
        if roles.columns[name].is_amount
    )
    label = roles.columns[roles.label]
    if label.missing and not label.not_numbers and len(label.missing) < label.distinct:
        notes.append(
            f"The label {roles.label!r} has the class {' and the class '.join(map(repr, label.missing))}. If such a text means a missing "
            "value, read it as null, in CSV files with "
            f"--csv \"{{'na_values': {label.missing!r}}}\"."
        )
    if roles.task == "regression" and pa.types.is_integer(label.type) and label.distinct <= _MANY_CLASSES:
        notes.append(
            f"The label {roles.label!r} has {label.distinct:,} different whole numbers, so the proposed task is regression. If they are "
            f"classes, pass --types \"{{{roles.label!r}: 'string'}}\"."
        )
    if roles.task == "regression" and (classes := _whole_classes(label)):
        notes.append(
            f"The label {roles.label!r} has only the numbers {listed(classes)}, which are stored as {roles.columns[roles.label].type}, so the "
            "proposed task is regression. If they are classes, convert the column to integers in the source."
        )
    return notes


def _whole_classes(label: Column) -> list[str]:
    """Return the values of a label that would be classes if they were integers; empty if there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        whole = pc.cast(as_numbers(label.values.drop_null()), pa.int64())
    except pa.ArrowInvalid:
        return []
    task = infer_task(LabelValues.of([whole], whole.type, None))
    return [] if task == "regression" else [str(value) for value in sorted(whole.unique().to_pylist())]


def _every(length: timedelta, rows: int) -> Every:
    """Propose the length of a window.

    The length is a month if the rows span at least 120 days or a week has fewer than 300 rows on average. It is a week
    if the rows span at least 42 days or a day has fewer than 300 rows on average. Otherwise, it is a day.

    :param length: time from the first to the last row
    :param rows: number of rows
    """
    if length >= _MONTHS_SPAN or rows * _LENGTH["week"] < _WINDOW_ROWS * length:
        return "month"
    if length >= _WEEKS_SPAN or rows * _LENGTH["day"] < _WINDOW_ROWS * length:
        return "week"
    return "day"


def wait_days(delay: timedelta) -> int:
    """Return a label delay in whole days, rounded up."""
    return math.ceil(delay / timedelta(days=1))
