"""Tables for the terminal: the summary of a prediction log, lists of datasets, and requests for retraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.assets import Consumer, retrain_uri
from airflow_mlops.core.numbers import percent, rounded
from airflow_mlops.stages.predictions.summary import FeatureSummary, LogSummary, OutcomeSummary

if TYPE_CHECKING:
    from airflow_mlops.data.datasets.overview import Entry, Names
    from airflow_mlops.data.leftovers import Leftover
    from airflow_mlops.registry.requests import Answer, RecordedRequest
    from airflow_mlops.stages.backtest.spec import BacktestResult

Rows = list[dict[str, Any]]


def sections(answers: LogSummary) -> list[tuple[str, Rows]]:
    """Return the tables of a summary, each as a title and rows. Empty tables are left out."""
    found: list[tuple[str, Rows]] = [
        ("Predictions", [
            {
                "window": item.window or "",
                "version": item.version,
                "rows": f"{item.rows:,}",
                "scored (UTC)": f"{item.scored:%Y-%m-%d %H:%M}" + (f" ({item.times} times)" if item.times > 1 else ""),
                **({"deleted": f"{item.deleted:%Y-%m-%d}"} if item.deleted else {}),
            }
            for item in answers.how_many
        ]),
        ("Speed", [
            {
                "window": item.window or "",
                "version": item.version,
                "rows per s": f"{item.rows_per_second:,.0f}" if item.rows_per_second else "",
                **{f"{name} ms per row": rounded(value, 2) for name, value in item.latency_ms.items()},
                "engine": item.engine,
            }
            for item in answers.how_fast
        ]),
        ("Inputs", [
            {
                "window": item.window or "",
                "version": item.version,
                "source": item.source,
                "datasets": ", ".join(dataset[:12] for dataset in item.datasets),
                "predictions": item.predictions[:12],
                "run": item.run,
            }
            for item in answers.inputs
        ]),
        ("Features", [_feature_row(item) for item in answers.features]),
        ("Results", [
            {
                "version": item.version,
                "rows": f"{item.rows:,}",
                **{f"score {name}": rounded(value) for name, value in item.score.items()},
                "predicted": _shares(item.predicted),
            }
            for item in answers.results
        ]),
        ("Realised performance", [_realised_row(item) for item in answers.happened]),
    ]  # fmt: skip
    return [(title, _same_columns(rows)) for title, rows in found if rows]


def leftover_rows(found: Iterable[Leftover]) -> Rows:
    """Return a table with one row for each leftover in the artifact store."""
    return [
        {
            "kind": item.kind,
            "key": item.key,
            "written (UTC)": f"{item.written:%F %H:%M}",
            "bytes": "" if item.bytes is None else item.bytes,
        }
        for item in found
    ]


def dataset_names(found: Iterable[Names]) -> Rows:
    """Return a table with one row for each dataset name."""
    return [
        {
            "name": item.name,
            "windows": item.windows,
            "from (UTC)": f"{item.first:%F %H:%M}" if item.first else "",
            "until (UTC)": f"{item.last:%F %H:%M}" if item.last else "",
            "snapshots": item.snapshots,
        }
        for item in found
    ]


def dataset_rows(found: Iterable[Entry]) -> Rows:
    """Return a table with one row for each window or snapshot of a dataset."""
    return [
        {
            "window": item.window.label if item.window else "",
            "id": item.manifest.id[:12],
            "rows": item.manifest.rows,
            "written (UTC)": f"{item.written:%F %T}",
            "state": f"{item.state}{', purged' if item.manifest.purged else ''}",
            "run": " ".join(filter(None, [item.manifest.provenance.dag_id, item.manifest.provenance.run_id])),
            "withdrawn": item.withdrawn,
        }
        for item in found
    ]


def replayed(result: BacktestResult) -> Rows:
    """Return one row for each window, with the metric and the trainings of each strategy, and the policy's triggers."""
    rows: list[dict[str, Any]] = []
    for steps in zip(*(item.steps for item in result.strategies), strict=True):
        row: dict[str, Any] = {"window": steps[0].window.label}
        for item, step in zip(result.strategies, steps, strict=True):
            mark = " *" if step.trained else ""
            row[f"{result.metric} {item.strategy}"] = (
                f"{'no value' if step.value is None else rounded(step.value)}{mark}"
            )
            if item.strategy == "policy":
                row["triggers"] = ", ".join(step.triggers)
        rows.append(row)
    return rows


def _feature_row(item: FeatureSummary) -> dict[str, Any]:
    value = "" if item.mean is None else rounded(item.mean)
    if item.most_frequent is not None:
        value = f"{item.most_frequent} ({item.share:.1%})"
    return {
        "version": item.version,
        "feature": item.feature,
        "mean or most frequent value": value if item.kept == "yes" else item.kept,
        "missing": "" if item.missing is None else f"{item.missing:.1%}",
    }


def _realised_row(item: OutcomeSummary) -> dict[str, Any]:
    first = [_interval(item.metric, item.value, item.low, item.high)] if item.metric is not None else [item.note]
    others = [_interval(other.metric, other.value, other.low, other.high) or other.note for other in item.others]
    if (quantile := item.quantile) is not None:
        share = _interval("share of labels at most the prediction", quantile.value, quantile.low, quantile.high)
        others.append(f"{share}, nominal {quantile.alpha:g}")
    return {
        "window": item.window or "",
        "version": item.version,
        "labelled": f"{item.labelled:,} of {item.rows:,}"
        + (f" ({percent(item.coverage)})" if item.coverage is not None else ""),
        "observed labels": f"mean {rounded(item.observed['mean'])}"
        if item.observed.keys() == {"mean"}
        else _shares(item.observed),
        "metric (interval)": "; ".join(filter(None, [*first, *others])),
    }


def _interval(name: str, value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return ""
    return f"{name} {rounded(value, 3)} ({rounded(low, 3)} to {rounded(high, 3)})"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{value} {share:.1%}" for value, share in shares.items())


def _same_columns(rows: Rows) -> Rows:
    """Return the rows with empty values added. All rows then have the same columns, as Airflow's console requires."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in columns} for row in rows]


def request_rows(recorded: Iterable[RecordedRequest], answers: Mapping[str, Answer | None]) -> Rows:
    """Return one row for each request for retraining.

    :param answers: the training step that answered a request, by the id of the request
    """
    return [
        {
            "window": item.request.window.label,
            "created (UTC)": f"{item.request.created:%Y-%m-%d %H:%M}",
            "state": item.state,
            "triggers": ", ".join(item.request.triggers),
            "training": f"{found.dag_id} {found.run_id}".strip() if (found := answers.get(item.request.id)) else "",
            "reason": item.request.reason,
        }
        for item in recorded
    ]


def listeners(model: str, consumers: Sequence[Consumer]) -> str:
    """Return a sentence about the DAGs that are scheduled on the asset of requests for retraining."""
    uri = retrain_uri(model)
    awake = [dag.dag_id for dag in consumers if not dag.paused]
    paused = [dag.dag_id for dag in consumers if dag.paused]
    if awake:
        others = f" Paused: {', '.join(paused)}." if paused else ""
        return f"A request to {uri} starts {', '.join(awake)}.{others}"
    if paused:
        return f"Nothing listens to {uri}, because all DAGs that are scheduled on it are paused: {', '.join(paused)}."
    return f"Nothing listens to {uri}. Schedule a training DAG on this asset."
