"""Build a training set from events, point-in-time features, a label and a verified split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import Task
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.core.windows import Window
from airflow_mlops.core.zones import UTC, local
from airflow_mlops.data import row_weights
from airflow_mlops.data.columns import event_column, is_reserved
from airflow_mlops.data.datasets import DATA, Dataset, DatasetWriter
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.row_mask import RowMask
from airflow_mlops.data.run_windows import ResolvedWindow, resolve_window
from airflow_mlops.data.selection import coverage, dates_detail, have_dates, select, window_of
from airflow_mlops.data.sorting import Runs, in_order
from airflow_mlops.data.spool import Rows
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.training_set import forecasts, leakage, splits, spread
from airflow_mlops.stages.training_set.content import Content, local_content
from airflow_mlops.stages.training_set.events import read_events
from airflow_mlops.stages.training_set.features import FeatureSource
from airflow_mlops.stages.training_set.labels import (
    LabelValues,
    infer_task,
    positive_class,
    positive_rate,
    require_classes,
)
from airflow_mlops.stages.training_set.layout import layout_of
from airflow_mlops.stages.training_set.spec import TrainingSetResult, TrainingSetSpec

Numbers = np.ndarray[Any, Any]


def run(spec: TrainingSetSpec, context: StepContext) -> TrainingSetResult:
    """Build the training set and write it to the artifact store as a dataset.

    :raises LeakageError: a feature is newer than its event, or a single feature predicts the label almost perfectly
    :raises TrainingError: the label is null in all rows, has only one value or is infinite, a split part is empty, or
        the retraining request leaves out all features
    :raises FeatureStoreError: the features cannot be read or joined
    :raises SchemaError: a column is absent or has the wrong type
    :raises SpecError: the window rule selects no time, or the events are forecast rows and the keys, the event time or the
        split do not suit them
    :raises IncompleteWindowError: a part of the window is not covered by any dataset
    """
    resolved = resolve_window(spec.window, spec.entities, context.store)
    if resolved is not None:
        context.progress(f"The rule {resolved.rule} gives the training window {resolved.window.label}.")
    datasets = select(context.store, resolved.entities if resolved else spec.entities, spec.timestamp, context.kept)
    spec = forecasts.with_columns(spec, forecasts.forecast_of(spec, datasets))
    source = FeatureSource(spec)
    left_out = context.provenance.left_out() if spec.label else set()
    with _content(spec, context, datasets, source, left_out) as (content, dropped):
        return _write(spec, context, datasets, source, content, dropped, resolved, left_out)


@contextmanager
def _content(
    spec: TrainingSetSpec,
    context: StepContext,
    datasets: list[Dataset],
    source: FeatureSource,
    left_out: Collection[str],
) -> Iterator[tuple[Content, dict[str, int]]]:
    """Join the features, on executors if there are some and enough events.

    :param left_out: features that the retraining request leaves out
    :return: the rows of the training set, and the number of events that were left out, by reason
    """
    broken = {name for name in spec.columns if (event_column(name) if is_reserved(name) else name) in left_out}
    parts = spread.parts_of(spec, context, datasets, source, left_out, broken)
    if parts is not None:
        with parts.joined() as (spread_content, dropped):
            yield spread_content, dropped
        return
    with read_events(spec, datasets, source.event_columns, broken) as (events, dropped):
        context.progress(f"Joining features to {counted(events.num_rows, 'event')}.")
        layout = layout_of(spec, events.column_names, source.keys, source.names(events.column_names), left_out)
        with local_content(layout, events, source) as content:
            yield content, dropped


def _write(
    spec: TrainingSetSpec,
    context: StepContext,
    datasets: list[Dataset],
    source: FeatureSource,
    content: Content,
    dropped: dict[str, int],
    resolved: ResolvedWindow | None,
    left_out: Collection[str],
) -> TrainingSetResult:
    forecast = forecasts.forecast_of(spec, datasets)
    layout, table = content.layout, content.table
    # The left-out features stay in the training set as columns, because the champion may need them in a comparison.
    spec, features = layout.spec, layout.features
    leakage.refuse(content.newer(), features, table.num_rows)
    labels = _values(table, layout.label, spec.task)
    task = (spec.task or infer_task(labels)) if labels is not None else None
    positive, found = _described_label(content, labels, task)
    parts, prove = _parts(content, task, forecast, datasets, resolved)
    with DatasetWriter(context.store, spec.name) as writer, content.writing(writer, parts) as written:
        # On one machine, the files are written while these checks run.
        details = _details(content, task, dropped, datasets, resolved, forecast) | found
        if gone := sorted({*left_out} & {*spec.columns, *layout.joined}):
            details["without"] = gone
            context.progress(f"The retraining request leaves out broken features: {', '.join(gone)}.")
        if labels is not None and task is not None:
            details["single_feature"] = _check_single_features(content, labels, task, forecast)
        proof = prove() if prove is not None else None
        details["split"] = proof.description if proof is not None else None
        if repeated := _repeated(content, proof) if layout.keys and labels is not None else None:
            details["repeated"] = repeated
        if resolved is not None and resolved.half_life is not None:
            details[row_weights.DETAIL] = _weights(table, spec.timestamp, parts, resolved.half_life, resolved.run.end)
        written()
        manifest, _ = writer.commit(
            window=window_of(datasets),
            owner=spec.owner,
            description=spec.description,
            source={"kind": "training_set", "entities": datasets[0].manifest.name, **source.describe()},
            parents=[dataset.ref for dataset in datasets],
            details=details,
            provenance=context.provenance,
            check=context.require_unfinished,
        )
        content.committed(manifest)
    rate = positive_rate(labels, positive) if labels is not None and task == "binary" else None
    rows_by_part = {part: mask.count for part, mask in parts.items()}
    context.processed(table.num_rows)
    return TrainingSetResult(
        dataset=manifest.ref,
        label=layout.label,
        task=task,
        features=features,
        rows=rows_by_part,
        dropped=dropped["label_unknown"],
        positive_rate=rate,
        window_rule=str(resolved.rule) if resolved else None,
        summary=_summary(
            spec, rows_by_part, features, dropped["label_unknown"], rate, positive, details.get("gaps", [])
        )
        + _told(repeated)
        + _about_window(resolved, details),
    )


def _details(
    content: Content,
    task: Task | None,
    dropped: dict[str, int],
    datasets: Sequence[Dataset],
    resolved: ResolvedWindow | None,
    forecast: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the details for the manifest that depend neither on the label nor on the split."""
    layout, spec = content.layout, content.layout.spec
    return {
        "label": layout.label,
        "task": task,
        "features": layout.features,
        "timestamp": spec.timestamp,
        "keys": layout.keys,
        "feature_refs": content.refs,
        "feature_service": spec.feature_service,
        "split": None,
        "dropped": dropped,
        "infinite": content.infinite(),
        **dates_detail(datasets, spec.timestamp),
        **coverage(datasets, resolved.window if resolved else None),
        **(resolved.describe() if resolved else {}),
        **forecasts.detail(forecast, spec),
    }


def _described_label(content: Content, labels: LabelValues | None, task: Task | None) -> tuple[Any, dict[str, Any]]:
    """Check the values of the label.

    :param labels: the values of the label; ``None`` without a label
    :return: the positive class, ``None`` for tasks without one; and details for the manifest
    """
    spec, label = content.layout.spec, content.layout.label
    if label is None or labels is None or task is None:
        return None, {}
    require_classes(labels, task, label, "the events")
    positive = positive_class(labels, spec.positive, label) if task == "binary" else None
    return positive, {"positive": _declared(positive, spec, task)} if spec.positive is not None else {}


def _check_single_features(
    content: Content, labels: LabelValues, task: Task, forecast: dict[str, Any] | None
) -> dict[str, Any]:
    """Check that no single feature predicts the label almost perfectly. Return the scores for the manifest."""
    spec, label = content.layout.spec, content.layout.label
    assert label is not None
    # Earlier values of a series may predict it well without leakage.
    checked = [name for name in content.layout.features if name not in (forecast or {}).get("from_history", ())]
    ids, *_ = content.layout.ids
    return leakage.check_single_features(
        content.table, checked, label, task, ids, spec.max_single_feature_score, labels.values(), content.take
    )


def _parts(
    content: Content,
    task: Task | None,
    forecast: dict[str, Any] | None,
    datasets: Sequence[Dataset],
    resolved: ResolvedWindow | None,
) -> tuple[dict[str, RowMask], Callable[[], splits.Proof] | None]:
    """Divide the rows into the parts of the split.

    :return: the rows of each part, and a function that proves that the parts have no row in common; ``None`` without a
        split
    :raises SpecError: a regression cannot be stratified
    """
    spec, layout, table = content.layout.spec, content.layout, content.table
    split = forecasts.with_gap(spec.split, forecast, table) if spec.split and forecast else spec.split
    if split is None:
        return {
            DATA: RowMask.of(np.ones(batch.num_rows, bool) for batch in table.select([spec.timestamp]).to_batches())
        }, None
    run_starts = _run_starts(resolved.run, datasets, spec.timestamp) if resolved else None
    if split.stratify and task == "regression":
        raise SpecError(
            f"`stratify` keeps the shares of the classes of a label, but {layout.label!r} is the label of a regression. Remove "
            "`stratify`."
        )
    *_, ids = layout.ids
    parts, prove = splits.divide(table, split, spec.timestamp, ids, run_starts, layout.label, spec.memory_limit)
    if layout.label is not None and task is not None:
        for part, mask in parts.items():
            if (labels := _values(table, layout.label, task, mask)) is not None:
                require_classes(labels, task, layout.label, f"the split part {part!r}")
    return parts, prove


def _run_starts(run: Window, datasets: Sequence[Dataset], timestamp: str) -> datetime:
    """Return the first event time that lies in the window of the run.

    Event times that are dates were converted to midnight UTC, although they are days in the window's time zone.
    """
    if run.zone == UTC:
        return run.start
    if not have_dates(datasets, timestamp):
        return run.start
    return local(run.start, run.zone).replace(tzinfo=timezone.utc)


def _values(table: Rows, label: str | None, task: Task | None, mask: RowMask | None = None) -> LabelValues | None:
    """Return the values of the label; ``None`` without a label.

    :param mask: rows of a split part; by default all rows
    """
    if label is None:
        return None

    def batches() -> Iterator[pa.Array]:
        start = 0
        for batch in table.select([label]).to_batches():
            values = batch.column(0)
            yield values if mask is None else values.filter(pa.array(mask.slice(start, start + len(values))))
            start += len(values)

    return LabelValues.of(batches(), table.schema.field(label).type, task)


def _weights(
    table: Rows, timestamp: str, parts: dict[str, RowMask], half_life: timedelta, until: datetime
) -> dict[str, Any]:
    """Describe the row weights for the manifest.

    :raises TrainingError: the weights of all rows of a split part are 0 in floating-point arithmetic
    """

    def weights(part: str) -> Iterator[Numbers]:
        start = 0
        for batch in table.select([timestamp]).to_batches():
            times = (
                as_utc(batch.column(0), f"The event time {timestamp!r}", first_row=start).cast(pa.int64()).to_numpy()
            )
            chosen = times[parts[part].slice(start, start + len(times))]
            start += len(times)
            yield row_weights.decayed(chosen, half_life, until)

    found = row_weights.describe(weights, {part: mask.count for part, mask in parts.items()}, half_life, until)
    for part, rows in found["effective_rows"].items():
        if not rows:
            raise TrainingError(
                f"The weights of all rows of split part {part!r} are 0, because every row is older than a thousand "
                f"half-lives. Use a longer `half_life` than {half_life}."
            )
    return found


def _about_window(resolved: ResolvedWindow | None, details: dict[str, Any]) -> str:
    if resolved is None:
        return ""
    text = f" The window {resolved.window.label} follows the rule {resolved.rule}"
    if weights := details.get(row_weights.DETAIL):
        effective = weights["effective_rows"]
        part = "train" if "train" in effective else DATA
        text += f"; the weighted rows of {part} count like {effective[part]:,.0f} rows of equal weight"
    return text + "."


def _repeated(content: Content, proof: splits.Proof | None) -> dict[str, int]:
    """Count the rows that repeat the keys and the event time of another row.

    :param proof: the proof of the split; ``None`` without a split
    :return: ``rows`` is the number of these rows, without the first row of each id. ``labels`` is the number of labels
        that differ from another label of the same id: the number of distinct labels minus 1, summed over the ids. Empty
        if no row is repeated
    """
    layout, table = content.layout, content.table
    ids, *others = layout.ids
    if proof is not None and proof.are_distinct and not others:
        return {}
    names = [ids, *([layout.label] if layout.label else [])]
    rows = table.select(names)
    each, labels = Runs([ids]), Runs(names)
    memory = splits.sort_memory(layout.spec.memory_limit)
    for batch in in_order(rows.to_batches(), rows.schema, names, rows.num_rows, memory):
        each.starts(batch)
        labels.starts(batch)
    repeated = rows.num_rows - each.count
    return {"rows": repeated, "labels": labels.count - each.count} if repeated else {}


def _told(repeated: dict[str, int] | None) -> str:
    if not repeated:
        return ""
    other = f", {repeated['labels']:,} of them with another label" if repeated["labels"] else ""
    return f" Rows with the same keys and event time as another row: {repeated['rows']:,}{other}."


def _declared(positive: Any, spec: TrainingSetSpec, task: Task) -> Any:
    if task != "binary":
        raise SpecError(
            f"`positive` is {spec.positive!r}, but the ML task of the label is {task}. Remove `positive`, or set "
            "task='binary' if the label has two values."
        )
    return positive


def _summary(
    spec: TrainingSetSpec,
    rows: dict[str, int],
    features: Sequence[str],
    dropped: int,
    rate: float | None,
    positive: Any,
    gaps: Sequence[str],
) -> str:
    parts = " and ".join(f"{count:,} {part}" for part, count in rows.items())
    text = f"Built {spec.name} with {parts} rows and {counted(len(features), 'feature')}"
    if spec.split is not None:
        text += f", split by {spec.split.method}"
    if rate is not None:
        text += f", {rate:.1%} positive" + ("" if positive == 1 else f" ({positive!r})")
    if dropped:
        text += f"; {counted(dropped, 'row')} without a label {'was' if dropped == 1 else 'were'} left out"
    if gaps:
        text += f"; there were no events for {', '.join(gaps)}"
    return text + "."
