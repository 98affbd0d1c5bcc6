"""Choose the time, the label, the keys and the ML task of a model, from the data and the user's answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from airflow_mlops.core.contract import Task
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError, listed
from airflow_mlops.core.zones import UTC, zone
from airflow_mlops.data.columns import reserved_message
from airflow_mlops.data.types import as_numbers
from airflow_mlops.scaffold.answers import Given, Person
from airflow_mlops.scaffold.columns import Column, of
from airflow_mlops.stages.training_set.labels import LabelValues, infer_task

if TYPE_CHECKING:
    from airflow_mlops.scaffold.sample import Sample

# Usual names of columns that identify a row.
_ID = re.compile(r"(^|[^a-z])(id|key|uuid|number|nr|no)$|id$", re.IGNORECASE)
# Common names of the positive class in text labels, in lower case.
_POSITIVE = {"yes", "y", "true", "t", "1"}
_NEGATIVE = {"no", "n", "false", "f", "0"}


@dataclass(frozen=True)
class Roles:
    """The roles of the columns of the data, except for the features.

    :param columns: all columns of the sample by name
    :param time: column with the time of each row
    :param label: column that the model predicts
    :param delay: time after which the label of a row is known
    :param keys: columns that identify a row
    :param task: ML task: ``binary``, ``multiclass`` or ``regression``
    :param positive: label of the positive class, for text labels of a binary task; otherwise ``None``
    """

    columns: dict[str, Column]
    time: str
    label: str
    delay: timedelta
    keys: list[str]
    task: Task
    positive: str | None


def choose_roles(sample: Sample, given: Given, person: Person) -> Roles:
    """Choose the roles of the columns.

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
    time = _time(columns, given, sample.notes, person)
    label = _label(columns, given, time, person)
    # As in BuildTrainingSetOperator, a label that is NaN is unknown.
    columns[label] = columns[label].with_nan_as_null()
    delay = given.label_delay
    if delay is None:
        delay = person.duration(
            "--label-delay", f"How long after {time!r} is {label!r} known at the latest (0 if each row already has it)"
        )
    keys = given.keys or _ask_keys(columns, label, sample.complete, person)
    _require_keys(columns, keys, label)
    if taken_names := reserved_message([time, *keys], "The data"):
        raise SpecError(taken_names)
    if alike := columns[label].alike:
        raise SpecError(
            f"The label {label!r} has the values {' and '.join(alike)}, which differ only by blanks, letter case or Unicode form, but "
            "would be different classes. Correct them in the source, for example with a view."
        )
    if spellings := _spellings_of_yes_and_no(columns[label]):
        raise SpecError(
            f"The label {label!r} has the values {listed(spellings)}, which all mean yes or no, but would be {len(spellings)} different "
            "classes. In the source, use one value for yes and one for no, for example with a view."
        )
    task, positive = _task(columns[label], given.positive, person)
    return Roles(columns, time, label, delay, keys, task, positive)


def _time(columns: Mapping[str, Column], given: Given, notes: list[str], person: Person) -> str:
    time = given.time or _ask_time(columns, person)
    if not columns[time].is_time:
        raise SpecError(
            f"Column {time!r} has the type {columns[time].type}, and its values are not dates or points in time in ISO 8601, "
            f"such as 2024-03-05 or 2024-03-05T06:30:00Z. {_time_remedy(columns[time]) or 'Convert them in the source.'}"
        )
    if columns[time].nulls:
        notes.append(f"{counted(columns[time].nulls, 'row')} without a time in column {time!r} will be left out.")
    _require_zone(given.timezone)
    if columns[time].offset and given.timezone == UTC:
        notes.append(
            f"The times in column {time!r} have offsets such as {columns[time].offset}, but the windows are days in UTC. For "
            "windows in a time zone, pass --timezone, such as --timezone Europe/Berlin."
        )
    if columns[time].is_naive and given.timezone != UTC:
        notes.append(
            f"The times in column {time!r} have no time zone, and are read as UTC. If they are local times, pass "
            f"--types \"{{{time!r}: 'timestamp[us, tz={given.timezone}]'}}\"."
        )
    return time


def _ask_time(columns: Mapping[str, Column], person: Person) -> str:
    found = [column.name for column in columns.values() if column.is_time]
    if not found:
        remedies = [remedy for column in columns.values() if (remedy := _time_remedy(column))]
        raise SpecError(
            "No column contains dates or points in time in ISO 8601, such as 2024-03-05 or 2024-03-05T06:30:00Z, so the data "
            "cannot be divided into windows. "
            + (" ".join(remedies) or "Add the time at which each row was created, or convert it in the source.")
        )
    # The event time is never null. A column of times with nulls is often known only later.
    without_nulls = [name for name in found if not columns[name].nulls]
    if len(found) == 1 or len(without_nulls) == 1:
        return (without_nulls or found)[0]
    return person.choose("--time", "Which column is the time at which the features of a row were known?", found)


def _time_remedy(column: Column) -> str:
    """Return how to read a column as times; empty if the values do not look like times."""
    if unit := column.epoch_unit:
        return (
            f"If the integers in column {column.name!r} count the time since 1970, pass "
            f"--types \"{{{column.name!r}: 'timestamp[{unit}, tz=UTC]'}}\" for files, or create a view with the times for a table."
        )
    if column.is_foreign_date:
        return (
            f"Column {column.name!r} contains dates such as {column.example!r}, whose order of day and month is not certain. Write them as "
            "2024-03-05 in the source, or create a view that converts them."
        )
    if others := column.not_times:
        return (
            f"Most values of column {column.name!r} are times, but it also contains {', '.join(map(repr, others))}. If such a text "
            f"means a missing value, read it as null, in CSV files with --csv \"{{'na_values': {others!r}}}\". Otherwise, correct it "
            "in the source."
        )
    return ""


def _label(columns: Mapping[str, Column], given: Given, time: str, person: Person) -> str:
    label = given.label or _ask_label(columns, time, person)
    if label == time:
        raise SpecError(f"Column {time!r} cannot be both the time and the label. Correct --time or --label.")
    if taken := [name for name in given.features if name in (label, time)]:
        raise SpecError(f"The label and the time cannot be features: remove {listed(taken)} from --features.")
    return label


def _ask_label(columns: Mapping[str, Column], time: str, person: Person) -> str:
    """Ask for the label. Columns with two values are listed first, because most labels have two values."""
    usable = [
        column for column in columns.values() if column.name != time and column.distinct > 1 and not column.is_time
    ]
    usable.sort(key=lambda column: (column.distinct != 2, column.is_unique))
    return person.choose(
        "--label", "Which column is the label, which the model predicts?", [column.name for column in usable]
    )


def _ask_keys(columns: Mapping[str, Column], label: str, complete: bool, person: Person) -> list[str]:
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


def _require_keys(columns: Mapping[str, Column], keys: list[str], label: str) -> None:
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
            f"The columns {listed(keys)} do not identify a row: found {counted(repeated, 'row')} with the same values as "
            "another row. Name more columns with --keys, or remove the repeated rows in the source."
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


def _spellings_of_yes_and_no(label: Column) -> list[str]:
    """Return the values of a label of text if there are more than two and all mean yes or no, such as true, false, 1 and 0."""
    if not label.is_text or not 2 < label.distinct <= len(_POSITIVE | _NEGATIVE):
        return []
    found = label.categories()
    return found if {text.strip().casefold() for text in found} <= _POSITIVE | _NEGATIVE else []


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
    numbers = as_numbers(label.values.drop_null())
    task = infer_task(LabelValues.of([numbers], numbers.type, None))
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
