"""Build a training set: events, features known at the time, a label, and a split that is proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import EmptyWindowError, SchemaError, SpecError, TrainingError
from airflow_mlops.data import expressions
from airflow_mlops.data.datasets import DATA, Dataset, DatasetWriter
from airflow_mlops.data.feast.sources import as_utc
from airflow_mlops.data.row_identity import row_ids
from airflow_mlops.data.selection import select, window_of
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.training_set.spec import TrainingSetResult, TrainingSetSpec

# A label of integers with more distinct values than this is a quantity.
_MOST_CLASSES = 20


@dataclass(frozen=True)
class _Joined:
    """Features from Feast.

    :param names: the column of each reference, in order
    :param keys: the join keys
    """

    columns: dict[str, pa.ChunkedArray]
    refs: list[str]
    keys: list[str]


def run(spec: TrainingSetSpec, context: StepContext) -> TrainingSetResult:
    """Build the training set and write it as a dataset.

    :raises LeakageError: a feature is newer than its event, or alone predicts the label suspiciously well
    :raises TrainingError: the label has one class only, or the split leaves a part empty
    :raises FeatureStoreError: the features cannot be had
    :raises SchemaError: a column is missing or of the wrong type
    """
    from airflow_mlops.stages.training_set import leakage, splits

    datasets = select(context.store, spec.entities)
    source = _Features(spec)
    events, dropped = _events(spec, datasets, source.event_columns)
    context.progress(f"Joining features to {events.num_rows:,} events.")
    joined = source.join(events)
    keys = list(dict.fromkeys([*joined.keys, *(name for name in spec.keys if name != spec.timestamp)]))
    features = [*spec.columns, *joined.columns]
    label = spec.label.name if spec.label else None
    table = _assemble(events, joined, [*keys, spec.timestamp, *spec.columns, *spec.watched], label)
    others = {label, *spec.watched}
    identity = [*keys, spec.timestamp] if keys else [name for name in table.column_names if name not in others]

    leakage.refuse_newer(table, features, spec.timestamp)
    task = (spec.task or infer_task(table[label])) if label else None
    details: dict[str, Any] = {
        "label": label,
        "task": task,
        "features": features,
        "timestamp": spec.timestamp,
        "keys": keys,
        "feature_refs": joined.refs,
        "feature_service": spec.feature_service,
        "split": None,
        "dropped": dropped,
        "infinite": _infinities(table, features),
    }
    if label is not None and task is not None:
        _require_classes(table[label], task, label, "the events")
        details["single_feature"] = leakage.refuse_telling(
            table, features, label, task, row_ids(table, identity), spec.max_single_feature_score
        )
    parts = {DATA: table}
    if spec.split is not None:
        test, details["split"] = splits.divide(table, spec.split, spec.timestamp, identity)
        parts = {"train": table.filter(pa.array(~test)), "test": table.filter(pa.array(test))}
        if label is not None and task is not None:
            for part, rows in parts.items():
                _require_classes(rows[label], task, label, f"the part {part!r}")

    with DatasetWriter(context.store, spec.name) as writer:
        for part, rows in parts.items():
            writer.write(rows.combine_chunks(), part)
        manifest, _ = writer.commit(
            window=window_of(datasets),
            owner=spec.owner,
            description=spec.description,
            source={"kind": "training_set", "entities": datasets[0].manifest.name, **source.describe()},
            parents=[dataset.ref for dataset in datasets],
            details=details,
            provenance=context.provenance,
        )
    positive_rate = _positive_rate(table[label]) if label and task == "binary" else None
    rows_by_part = {part: rows.num_rows for part, rows in parts.items()}
    return TrainingSetResult(
        dataset=manifest.ref,
        label=label,
        task=task,
        features=features,
        rows=rows_by_part,
        dropped=dropped["label_unknown"],
        positive_rate=positive_rate,
        summary=_summary(spec, rows_by_part, features, dropped["label_unknown"], positive_rate),
    )


class _Features:
    """Where features come from: a Feast repository, or nowhere but the events themselves."""

    def __init__(self, spec: TrainingSetSpec) -> None:
        self._spec = spec
        self._store = self._request = None
        if spec.feature_service is None and not spec.features:
            return
        from airflow_mlops.data.feast import repository as feast_repo
        from airflow_mlops.data.feast import request as feast_request

        assert spec.repo is not None
        self._store = feast_repo.open_store(spec.repo)
        with feast_repo.locked(self._store, shared=True):
            self._request = feast_request.resolve(self._store, spec.feature_service, spec.features)

    @property
    def event_columns(self) -> list[str]:
        """What the join needs of the events, beside their time."""
        return [*self._request.join_keys, *self._request.event_columns] if self._request else []

    def join(self, events: pa.Table) -> _Joined:
        if self._store is None or self._request is None:
            return _Joined({}, [], [])
        from airflow_mlops.data.feast import join as feast_join

        found = feast_join.join(self._store, self._request, events, self._spec.timestamp)
        names = _names(list(found), [*events.column_names, *([self._spec.label.name] if self._spec.label else [])])
        return _Joined(dict(zip(names, found.values(), strict=True)), self._request.refs, self._request.join_keys)

    def describe(self) -> dict[str, Any]:
        if self._store is None:
            return {}
        # Where to look whether the features are still there, when an older model is to be champion again.
        return {"feast_project": self._store.project, "feast_repo": str(self._store.repo_path.absolute())}


def _names(refs: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Columns for features: their own names, or ``view__feature``, as Feast does, where that would not be unique."""
    short = [ref.partition(":")[2] for ref in refs]
    return [
        ref.replace(":", "__") if short.count(name) > 1 or name in taken else name
        for ref, name in zip(refs, short, strict=True)
    ]


def _events(
    spec: TrainingSetSpec, datasets: Sequence[Dataset], join_columns: list[str]
) -> tuple[pa.Table, dict[str, int]]:
    """The events with a known label, ordered by time and keys, so that equal data makes an equal dataset."""
    operands = sorted(spec.label_columns)
    wanted = list(dict.fromkeys([*join_columns, *spec.keys, spec.timestamp, *spec.columns, *spec.watched]))
    tables = [dataset.table(columns=list(dict.fromkeys([*wanted, *operands]))) for dataset in datasets]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(
            f"The windows of dataset {datasets[0].manifest.name} do not fit together: {str(error).splitlines()[0]}."
        ) from None
    if not table.num_rows:
        raise EmptyWindowError(
            f"Dataset {datasets[0].manifest.name} has no rows: there is nothing to join features to."
        )
    times = as_utc(table[spec.timestamp], f"The event time {spec.timestamp!r} of dataset {datasets[0].manifest.name}")
    if times.null_count:
        raise SchemaError(
            f"{times.null_count:,} events of dataset {datasets[0].manifest.name} have no {spec.timestamp!r}: without "
            "its time nobody can say what was known at an event. Drop or repair these rows upstream."
        )
    table = table.set_column(table.schema.get_field_index(spec.timestamp), spec.timestamp, times)
    dropped = {"label_unknown": 0}
    if spec.label is not None:
        label = _label(spec, table)
        known = pc.is_valid(label)
        dropped["label_unknown"] = table.num_rows - (pc.sum(known).as_py() or 0)
        table = table.select(wanted).append_column(spec.label.name, label).filter(known)
        if not table.num_rows:
            raise TrainingError(
                f"Not one of {len(known):,} events has a label {spec.label.name!r} yet: build from an older window."
            )
    ties = [spec.timestamp, *(name for name in table.column_names if name != spec.timestamp and _sortable(table[name]))]
    return table.take(pc.sort_indices(table, [(name, "ascending") for name in ties])), dropped


def _sortable(column: pa.ChunkedArray) -> bool:
    return not (pa.types.is_nested(column.type) or pa.types.is_null(column.type))


def _label(spec: TrainingSetSpec, table: pa.Table) -> pa.ChunkedArray:
    """The label's column; missing where an operand is. Truth is 1 and 0, as estimators and ONNX like it."""
    assert spec.label is not None
    if spec.label.expression is None:
        label = table[spec.label.name]
    else:
        label = expressions.evaluate(spec.label.expression, table)
        label = label if isinstance(label, pa.ChunkedArray) else pa.chunked_array([label])
    if pa.types.is_boolean(label.type):
        return label.cast(pa.int64())
    if pa.types.is_dictionary(label.type):
        label = label.cast(label.type.value_type)
    if pa.types.is_floating(label.type):
        infinite = pc.sum(pc.is_inf(label)).as_py() or 0
        if infinite:
            raise TrainingError(
                f"The label {spec.label.name!r} is infinite in {infinite:,} rows: nothing can be learned from that. "
                "Look for a division by zero where it is made."
            )
        return pc.if_else(pc.is_nan(label), pa.scalar(None, label.type), label)
    if not (pa.types.is_integer(label.type) or pa.types.is_string(label.type) or pa.types.is_large_string(label.type)):
        raise SpecError(f"The label {spec.label.name!r} is {label.type}: it must be a number, a truth value or text.")
    return label


def infer_task(label: pa.ChunkedArray) -> Task:
    """Two values are a binary task, text and few integers are classes, everything else is a quantity."""
    distinct = pc.count_distinct(label).as_py()
    if pa.types.is_floating(label.type):
        return "binary" if set(label.unique().to_pylist()[:3]) == {0.0, 1.0} else "regression"
    if distinct <= 2:
        return "binary"
    if pa.types.is_integer(label.type) and distinct > _MOST_CLASSES:
        return "regression"
    return "multiclass"


def _require_classes(label: pa.ChunkedArray, task: Task, name: str, where: str) -> None:
    distinct = pc.count_distinct(label).as_py()
    if distinct < 2:
        raise TrainingError(
            f"The label {name!r} is {label[0].as_py()!r} in all {len(label):,} rows of {where}: "
            "nothing can be learned or measured there. Take a longer window, another split, or check the label."
        )
    if task == "binary" and distinct > 2:
        raise SpecError(f"The label {name!r} has {distinct} different values, which is no binary task: leave task out.")


def _assemble(events: pa.Table, joined: _Joined, kept: Sequence[str], label: str | None) -> pa.Table:
    columns = {name: events[name] for name in dict.fromkeys(kept)}
    columns.update(joined.columns)
    if label is not None:
        columns[label] = events[label]
    return pa.table(columns)


def _infinities(table: pa.Table, features: Sequence[str]) -> dict[str, int]:
    """How often features are infinite; they are kept as they are, trainers deal with them."""
    counts = {
        name: pc.sum(pc.is_inf(table[name])).as_py() or 0
        for name in features
        if pa.types.is_floating(table.schema.field(name).type)
    }
    return {name: count for name, count in counts.items() if count}


def _positive_rate(label: pa.ChunkedArray) -> float:
    positive = max(label.unique().to_pylist())
    return round((pc.sum(pc.equal(label, positive)).as_py() or 0) / len(label), 6)


def _summary(
    spec: TrainingSetSpec, rows: dict[str, int], features: Sequence[str], dropped: int, positive_rate: float | None
) -> str:
    parts = " and ".join(f"{count:,} {part}" for part, count in rows.items())
    text = f"Built {spec.name} with {parts} rows and {len(features)} features"
    if spec.split is not None:
        text += f", split by {spec.split.method}"
    if positive_rate is not None:
        text += f", {positive_rate:.1%} positive"
    if dropped:
        text += f"; {dropped:,} rows without a label were left out"
    return text + "."
