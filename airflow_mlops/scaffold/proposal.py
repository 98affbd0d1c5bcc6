"""Choose the columns and the schedule of a model's DAGs, from a sample of the data and the user's answers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, Protocol
from zoneinfo import ZoneInfo

from airflow_mlops.core.contract import Task
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError, listed, named
from airflow_mlops.core.zones import UTC, zone
from airflow_mlops.data.columns import is_reserved, reserved_message
from airflow_mlops.data.types import as_numbers
from airflow_mlops.scaffold import leaks
from airflow_mlops.scaffold.columns import Column, of, span, twins
from airflow_mlops.stages.training_set.events import infer_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_mlops.scaffold.sample import Sample

Every = Literal["day", "week", "month"]
# Usual names of columns that identify a row.
_ID = re.compile(r"(^|[^a-z])(id|key|uuid|number|nr|no)$|id$", re.IGNORECASE)
# Common names of the positive class in text labels, in lower case.
_POSITIVE = {"yes", "y", "true", "t", "1"}
# A text column with more categories than this, and with more than half of its values distinct, is an id or free text.
_CATEGORIES = 1_000
# So is a text column of which almost all values are distinct, unless it has very few values.
_ALMOST_ALL, _FEWEST = 0.9, 20
# Number of rows that a window should have, so that monitoring can distinguish a change from random variation.
_WINDOW_ROWS = 300
_MONTHS_SPAN, _WEEKS_SPAN = timedelta(days=120), timedelta(days=42)


class Person(Protocol):
    """Answers the questions that the data leaves open, such as which column is the label."""

    def choose(self, flag: str, question: str, options: Sequence[str]) -> str:
        """Return one of ``options``.

        :param flag: the argument of the command that gives the same answer
        :param question: the question
        :param options: the possible answers
        """

    def choose_several(self, flag: str, question: str, options: Sequence[str]) -> list[str]:
        """Return some of ``options``, see :meth:`choose`."""

    def duration(self, flag: str, question: str) -> timedelta:
        """Return a duration, which may be zero, see :meth:`choose`."""

    def confirm(self, question: str) -> bool:
        """Return the answer to a question with yes or no; ``False`` if nobody can be asked."""


@dataclass(frozen=True)
class Given:
    """The arguments of ``airflow mlops init``; ``None`` or empty if an argument was not given."""

    label: str | None = None
    time: str | None = None
    keys: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    label_delay: timedelta | None = None
    every: Every | None = None
    positive: str | None = None
    timezone: str = UTC


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
    columns = of(sample.table)
    if not sample.table.num_rows:
        raise SpecError("The data has no rows.")
    for name in (given.label, given.time, *given.keys, *given.features, *given.exclude):
        if name is not None and name not in columns:
            raise SpecError(f"The data has no column {name!r}. The columns are: {listed(list(columns))}.")
    time = given.time or _time(columns, person)
    if not columns[time].is_time:
        raise SpecError(
            f"Column {time!r} has the type {columns[time].type}, and its values are not dates or points in time in ISO 8601, "
            "such as 2024-03-05 or 2024-03-05T06:30:00Z. Convert them in the source."
        )
    if columns[time].nulls:
        sample.notes.append(
            f"{counted(columns[time].nulls, 'row')} without a time in column {time!r} will be left out."
        )
    _require_zone(given.timezone)
    if columns[time].offset and given.timezone == UTC:
        sample.notes.append(
            f"The times in column {time!r} have offsets such as {columns[time].offset}, but the windows are days in UTC. For "
            "windows in a time zone, pass --timezone, such as --timezone Europe/Berlin."
        )
    if columns[time].is_naive and given.timezone != UTC:
        sample.notes.append(
            f"The times in column {time!r} have no time zone, and are read as UTC. If they are local times, pass "
            f"--types \"{{{time!r}: 'timestamp[us, tz={given.timezone}]'}}\"."
        )
    label = given.label or _label(columns, time, person)
    if label == time:
        raise SpecError(f"Column {time!r} cannot be both the time and the label. Correct --time or --label.")
    if taken := [name for name in given.features if name in (label, time)]:
        raise SpecError(f"The label and the time cannot be features: remove {listed(taken)} from --features.")
    delay = given.label_delay
    if delay is None:
        delay = person.duration(
            "--label-delay", f"How long after {time!r} is {label!r} known at the latest (0 if each row already has it)"
        )
    keys = given.keys or _keys(columns, time, label, sample.complete, person)
    _require_keys(columns, keys, label)
    if taken_names := reserved_message([time, *keys], "The data"):
        raise SpecError(taken_names)
    if alike := columns[label].alike:
        raise SpecError(
            f"The label {label!r} has the values {' and '.join(map(repr, alike))}, which differ only by blanks or letter case, but "
            "would be different classes. Correct them in the source, for example with a view."
        )
    task, positive = _task(columns[label], given.positive, person)
    sample.notes.extend(
        f"Column {name!r} contains {listed(columns[name].not_numbers)} among numbers, so each value is a category. Read these "
        "texts as null, or correct them in the source."
        for name in (label, *given.features)
        if columns[name].not_numbers
    )
    sample.notes.extend(
        f"Column {name!r} looks like amounts, such as {columns[name].example!r}, but it is text, so each value is a "
        "category. To use the amounts, convert the column to numbers in the source."
        for name in (label, *given.features)
        if columns[name].is_amount
    )
    if task == "regression" and (classes := _whole_classes(columns[label])):
        sample.notes.append(
            f"The label {label!r} has only the numbers {listed(classes)}, which are stored as {columns[label].type}, so the "
            "proposed task is regression. If they are classes, convert the column to integers in the source."
        )
    excluded = dict.fromkeys(given.exclude, "excluded by you")
    if given.features:
        features = [name for name in given.features if name not in excluded]
        excluded |= {name: "not chosen" for name in columns if name not in (*features, *keys, time, label, *excluded)}
    else:
        others = [column for column in columns.values() if column.name not in (time, label, *excluded)]
        reasons = {column.name: _reason(column, columns[label], keys) for column in others}
        excluded |= {name: reason for name, reason in reasons.items() if reason}
        features = [name for name, reason in reasons.items() if not reason]
    leaking = leaks.find(columns[label], [columns[name] for name in features], task)
    confirmed: list[str] = []
    for name, score in leaking.items():
        alone = f"Column {name!r} alone predicts {label!r} almost perfectly ({score})"
        if name in given.features:
            sample.notes.append(
                f"{alone}. BuildTrainingSetOperator refuses such a feature, because it is usually known only with the label. "
                f"Remove it from --features, or set max_single_feature_score=1 if it is known at {time!r}."
            )
        elif person.confirm(f"{alone}. Is it already known at {time!r}?"):
            confirmed.append(name)
        else:
            features.remove(name)
            excluded[name] = (
                f"alone predicts the label almost perfectly ({score}), so it is probably known only when the label is known"
            )
    if not features:
        raise SpecError(
            "No column is left that could be a feature: "
            + "; ".join(f"{name!r} ({reason})" for name, reason in excluded.items())
            + ". Name the features with --features."
        )
    sample.notes.extend(
        f"Column {name!r} has values such as {' and '.join(map(repr, columns[name].alike))}, which differ only by blanks or "
        "letter case, so they are different categories. Correct them in the source."
        for name in features
        if columns[name].alike
    )
    if same := [name for name in (time, *keys, *features) if twins(columns, name)]:
        sample.notes.append(
            f"The suite has no expectations for {named('column', same)}, because another name differs only by letter case, which "
            "Great Expectations ignores. Rename one of the columns in the source."
        )
    first, last = span(columns[time], given.timezone)
    every = given.every or _every(last - first, len(sample.table))
    windows = max(1, round((last - first) / _LENGTH[every]))
    return Proposal(
        columns=columns, time=time, keys=keys, label=label, features=features, excluded=excluded, task=task,
        positive=positive, delay=delay, every=every, timezone=given.timezone, first=first, last=last,
        window_rows=len(sample.table) // windows, confirmed=confirmed,
    )  # fmt: skip


_LENGTH = {"day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}


def _time(columns: dict[str, Column], person: Person) -> str:
    found = [column.name for column in columns.values() if column.is_time]
    if not found:
        raise SpecError(
            "No column contains dates or points in time in ISO 8601, such as 2024-03-05 or 2024-03-05T06:30:00Z, so the data "
            "cannot be divided into windows. Add the time at which each row was created, or convert it in the source."
        )
    # The event time is never null. A column of times with nulls is often known only later.
    without_nulls = [name for name in found if not columns[name].nulls]
    if len(found) == 1 or len(without_nulls) == 1:
        return (without_nulls or found)[0]
    return person.choose("--time", "Which column is the time at which the features of a row were known?", found)


def _label(columns: dict[str, Column], time: str, person: Person) -> str:
    """Ask for the label. Columns with two values are listed first, because most labels have two values."""
    usable = [
        column for column in columns.values() if column.name != time and column.distinct > 1 and not column.is_time
    ]
    usable.sort(key=lambda column: (column.distinct != 2, column.is_unique))
    return person.choose(
        "--label", "Which column is the label, which the model predicts?", [column.name for column in usable]
    )


def _keys(columns: dict[str, Column], time: str, label: str, complete: bool, person: Person) -> list[str]:
    unique = [column.name for column in columns.values() if column.is_unique and column.is_whole and not column.is_time]
    named = [name for name in unique if name != label and _ID.search(name)]
    if len(named) == 1 and complete:
        return named
    # Ids with a null are often stored as floating-point numbers.
    others = [
        column.name
        for column in columns.values()
        if column.is_whole or column.is_time or (column.is_number and _ID.search(column.name))
    ]
    options = [*named, *(name for name in others if name not in (*named, label))]
    return person.choose_several(
        "--keys", "Which columns together identify a row, so that its label is found later?", options
    )


def _require_keys(columns: dict[str, Column], keys: list[str], label: str) -> None:
    import pyarrow as pa

    if not keys:
        raise SpecError("At least one column must identify a row. Name it with --keys.")
    if label in keys:
        raise SpecError(f"The label {label!r} cannot identify a row. Choose other columns for --keys.")
    if nested := [name for name in keys if pa.types.is_nested(columns[name].type)]:
        raise SpecError(
            f"Column {nested[0]!r} has the type {columns[nested[0]].type}, so it cannot identify a row. Choose other columns "
            "for --keys, or add a column with the id in the source."
        )
    # Labels are not joined by null keys.
    if empty := [name for name in keys if columns[name].nulls]:
        raise SpecError(
            f"{counted(columns[empty[0]].nulls, 'row')} without a value in column {empty[0]!r} cannot be identified. Choose "
            "other columns for --keys, or remove these rows in the source."
        )
    table = pa.table({name: columns[name].values for name in keys})
    groups = table.group_by(keys).aggregate([([], "count_all")])
    repeated = table.num_rows - groups.num_rows
    if repeated:
        raise SpecError(
            f"The columns {listed(keys)} do not identify a row: {counted(repeated, 'row')} with the same values as another "
            "row. Name more columns with --keys, or remove the repeated rows in the source."
        )


def _require_zone(name: str) -> None:
    """Check that a time zone is UTC or has a name in the IANA database. Cron schedules do not accept offsets.

    :raises SpecError: no time zone has this name
    """
    try:
        found = zone(name)
    except ValueError as error:
        raise SpecError(f"--timezone: {error}") from None
    if name != UTC and not isinstance(found, ZoneInfo):
        raise SpecError(f"--timezone is the offset {name!r}. Write a name of the IANA database, such as Europe/Berlin.")


def _task(label: Column, positive: str | None, person: Person) -> tuple[Task, str | None]:
    """Return the ML task and the positive class.

    :param label: the label
    :param positive: the given positive class; ``None`` if it was not given
    :param person: answers which of two texts is the positive class
    :raises SpecError: the label has fewer than two values, or its type is not supported; ``positive`` is not a value of
        the label, or the task is not binary
    """
    if label.distinct < 2:
        raise SpecError(
            f"The label {label.name!r} has fewer than two different values, so there is nothing to predict."
        )
    if not (label.is_number or label.is_text or str(label.type) == "bool"):
        raise SpecError(f"The label {label.name!r} has the type {label.type}. A label has numbers, booleans or text.")
    if label.is_numbers:
        raise SpecError(
            f"The label {label.name!r} contains numbers, such as {label.example}, but is text, so each number would be a class. "
            f"To predict the number, pass --types \"{{{label.name!r}: 'float64'}}\", or convert the column in the source."
        )
    # As in BuildTrainingSetOperator.
    task = infer_task(as_numbers(label.values.drop_null()))
    if task != "binary":
        if positive is not None:
            raise SpecError(
                f"--positive is for two classes, but the label {label.name!r} has {label.distinct:,} values."
            )
        return task, None
    found = label.categories() if label.is_text else sorted(map(str, label.values.drop_null().unique().to_pylist()))
    if positive is not None and positive not in found:
        raise SpecError(f"--positive is {positive!r}, but the values of {label.name!r} are {listed(found)}.")
    if positive is not None or not label.is_text:
        # The positive class of numbers and booleans is the greater value by default, as in BuildTrainingSetOperator.
        return task, positive
    known = [text for text in found if text.strip().casefold() in _POSITIVE]
    if len(known) == 1:
        return task, known[0]
    question = f"Which value of {label.name!r} is the positive class, which the model should find"
    return task, person.choose("--positive", question, found)


def _whole_classes(label: Column) -> list[str]:
    """Return the values of a label that would be classes if they were integers; empty if there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        whole = pc.cast(as_numbers(label.values.drop_null()), pa.int64())
    except pa.ArrowInvalid:
        return []
    return [] if infer_task(whole) == "regression" else [str(value) for value in sorted(whole.unique().to_pylist())]


def _reason(column: Column, label: Column, keys: list[str]) -> str:
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
    if column.distinct == 1 and not column.nulls:
        return "the same in all rows"
    if leaks.known_with(column, label):
        return "known only when the label is known"
    if column.is_text and _is_free(column):
        return "different in most rows"
    return ""


def _is_free(column: Column) -> bool:
    """Return whether the values of a text column are free text or ids, and not categories."""
    values = len(column.values) - column.nulls
    return column.distinct > max(_CATEGORIES, values / 2) or column.distinct > max(_FEWEST, _ALMOST_ALL * values)


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
