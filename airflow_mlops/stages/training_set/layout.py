"""The columns of a training set, which follow from the spec and the names of the features."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from airflow_mlops.core.errors import SchemaError, TrainingError
from airflow_mlops.data.columns import event_column, is_reserved, reserved_message
from airflow_mlops.data.spool import Rows
from airflow_mlops.stages.training_set.events import with_numbers
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.splits import row_columns


@dataclass(frozen=True)
class Layout:
    """The columns of a training set.

    :param spec: the spec, with the new names of renamed columns
    :param renamed: new name of each column of the events with a reserved name
    :param keys: columns that identify the entity of a row
    :param of_events: columns that come from the events, without the label
    :param joined: columns that come from Feast
    :param identity: columns that identify a row
    :param features: columns that are features
    :param label: column of the label; ``None`` without a label
    """

    spec: TrainingSetSpec
    renamed: dict[str, str]
    keys: list[str]
    of_events: list[str]
    joined: list[str]
    identity: list[str]
    features: list[str]
    label: str | None

    @property
    def columns(self) -> list[str]:
        """Return all columns, in order."""
        return [*self.of_events, *self.joined, *([self.label] if self.label else [])]

    @cached_property
    def ids(self) -> dict[str, list[str]]:
        """Return the columns that identify a row, by name of the column with the ids.

        The first item identifies the rows of the training set. If the split divides the rows by other columns, a second
        item identifies the rows for the split.

        :raises SchemaError: the group column of the split does not exist
        """
        found = {"id": self.identity}
        split = self.spec.split
        if split is not None and (columns := row_columns(split, self.identity, self.columns)) != self.identity:
            found["split_id"] = columns
        return {_unused(name, self.columns): columns for name, columns in found.items()}

    def table(self, events: Rows, features: Rows, whole: Collection[str] | None = None) -> Rows:
        """Put events, features and label together.

        :param events: the events, with their own names of columns
        :param features: the columns ``joined`` for the same events
        :param whole: see :func:`airflow_mlops.stages.training_set.events.with_numbers`
        """
        events = events.rename_columns([self.renamed.get(name, name) for name in events.column_names])
        table = with_numbers(events.select(self.of_events), self.spec.columns, whole).beside(features)
        if not self.label:
            return table
        return table.beside(with_numbers(events.select([self.label]), [self.label], whole))


def layout_of(
    spec: TrainingSetSpec,
    event_columns: Collection[str],
    join_keys: Sequence[str],
    joined: Sequence[str],
    left_out: Collection[str],
) -> Layout:
    """Return the columns of a training set.

    :param event_columns: the columns of the events, with the label
    :param join_keys: columns of the events that are join keys of feature views
    :param joined: columns that come from Feast
    :param left_out: features that the retraining request leaves out
    :raises SchemaError: a key has a reserved name, or a new name of a column exists already
    :raises TrainingError: no feature is left
    """
    if taken := reserved_message(join_keys, "The training set"):
        raise SchemaError(taken)
    spec, renamed = _renamed(spec, event_columns)
    keys = list(dict.fromkeys([*join_keys, *(name for name in spec.keys if name != spec.timestamp)]))
    features = [name for name in [*spec.columns, *joined] if name not in left_out]
    if not features:
        raise TrainingError(
            f"Training set {spec.name!r} has no feature left, because the retraining request leaves out all of them. Repair "
            "the features, or trigger the DAG yourself to train with them."
        )
    of_events = list(dict.fromkeys([*keys, spec.timestamp, *spec.columns, *spec.watched]))
    identity = [*keys, spec.timestamp] if keys else [name for name in [*of_events, *joined] if name not in spec.watched]
    label = spec.label.name if spec.label else None
    return Layout(spec, renamed, keys, of_events, list(joined), identity, features, label)


def _unused(name: str, taken: Collection[str]) -> str:
    """Return a name that no other column has."""
    while name in taken:
        name += "_"
    return name


def _renamed(spec: TrainingSetSpec, event_columns: Collection[str]) -> tuple[TrainingSetSpec, dict[str, str]]:
    """Rename features and watched columns whose names are reserved for columns of predictions.

    :return: the spec with the new names, and the new name of each renamed column
    :raises SchemaError: a column with the new name exists already
    """
    names = {name: event_column(name) for name in (*spec.columns, *spec.watched) if is_reserved(name)}
    if not names:
        return spec, {}
    if taken := [new for new in names.values() if new in event_columns]:
        raise SchemaError(
            f"The training set would have several columns {taken[0]!r}. Rename the column where the data is ingested, in "
            "SQL with `AS`."
        )
    split = spec.split
    if split is not None and split.group in names:
        split = split.model_copy(update={"group": names[split.group]})
    renamed = {
        "columns": [names.get(name, name) for name in spec.columns],
        "watched": [names.get(name, name) for name in spec.watched],
        "split": split,
    }
    return spec.model_copy(update=renamed), names
