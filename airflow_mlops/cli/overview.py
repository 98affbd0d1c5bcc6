"""The commands ``airflow mlops models``, ``status`` and ``index``."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.cli.simple_table import AirflowConsole

from airflow_mlops import server
from airflow_mlops.cli.command import command, store_of
from airflow_mlops.core.errors import (
    ConnectionNotFoundError,
    ConnectionUnavailableError,
    MLOpsError,
    RegistryUnavailableError,
)
from airflow_mlops.core.numbers import rounded
from airflow_mlops.core.references import MLflowTarget

if TYPE_CHECKING:
    from airflow_mlops.overview.facts import DecisionFacts, Level, ModelFacts, Overview, Point

# Number of the last windows and decisions that are shown.
_SHOWN = 12


@command
def models(args: Namespace) -> None:
    """Run ``airflow mlops models``, which lists all models."""
    from airflow_mlops.overview.models import models as read

    found = read(store_of(args))
    listed = _completed(found.models)
    if args.output in ("json", "yaml"):
        _print([item.model_dump(mode="json") for item in listed], args.output)
    elif listed:
        AirflowConsole().print_as([_row(item) for item in listed], args.output)
    else:
        print(f"The artifact store {store_of(args).url} has no models.")
    _report([*found.problems, *(problem for item in listed for problem in item.problems)])


@command
def status(args: Namespace) -> None:
    """Run ``airflow mlops status MODEL``, which shows the facts about a model."""
    from airflow_mlops.overview.models import model as read

    store = store_of(args)
    found = read(store, args.model)
    if found is None:
        raise MLOpsError(
            f"The artifact store {store.url} has nothing about model {args.model!r}. Correct the model's name, or set --store "
            "to a different artifact store."
        )
    facts = found.model_copy(update=dict(_completed([_overview(found)])[0]))
    if args.output in ("json", "yaml"):
        _print(facts.model_dump(mode="json"), args.output)
    else:
        _show(facts, args.output)
    _report(facts.problems)


@command
def index(args: Namespace) -> None:
    """Run ``airflow mlops index``, which writes the index of models again."""
    from airflow_mlops.overview.candidates import trained
    from airflow_mlops.overview.index import rebuild
    from airflow_mlops.overview.trainings import find
    from airflow_mlops.registry.client import connect

    store = store_of(args)
    names, note = set(rebuild(store)), ""
    try:
        for training in find(connect(MLflowTarget(conn_id=args.mlflow_conn_id), server.connection), store):
            trained(store, training.ref, training.dag_id, training.registered)
            names.add(training.ref.model)
    except (ConnectionNotFoundError, ConnectionUnavailableError, RegistryUnavailableError) as error:
        note = f" Models that were only trained were not looked for. {error}"
    print(f"The index has {len(names)} models{': ' if names else ''}{', '.join(sorted(names))}.{note}")


def _print(value: Any, output: str) -> None:
    # Airflow's console converts nested numbers to text.
    import yaml

    print(
        json.dumps(value, indent=1, ensure_ascii=False) if output == "json" else yaml.safe_dump(value, sort_keys=False)
    )


def _overview(facts: ModelFacts) -> Overview:
    from airflow_mlops.overview.facts import Overview

    return Overview(**{name: getattr(facts, name) for name in Overview.model_fields})


def _completed(found: Sequence[Overview]) -> list[Overview]:
    """Add owners, tags and requests for approval from Airflow's database.

    If the database cannot be read, a note is printed to standard error.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from airflow_mlops import dag_facts

    try:
        return dag_facts.complete(found)
    except SQLAlchemyError as error:
        note = "Owners, tags and requests for approval are missing, because Airflow's database could not be read"
        print(f"{note} ({type(error).__name__}).", file=sys.stderr)
        return list(found)


def _report(problems: Sequence[str]) -> None:
    """Print problems to standard error, and exit with status 1 if there are any."""
    for problem in dict.fromkeys(problems):
        print(problem, file=sys.stderr)
    if problems:
        raise SystemExit(1)


def _row(item: Overview) -> dict[str, Any]:
    from airflow_mlops.overview.facts import Trend

    last, scoring = item.monitoring, item.scoring
    shown = last.trend if last is not None else Trend()
    realised = shown.values[-1] if shown.values else None
    value = realised if realised is not None or not shown.estimated else shown.estimated[-1]
    estimated = " (estimated)" if realised is None else ""
    pending = [
        "approval" if item.approval is not None else "",
        _request(item),
    ]
    return {
        "model": item.name,
        "champion": f"v{item.champion.version}" if item.champion is not None else "",
        "since (UTC)": f"{item.champion.since:%F %H:%M}" if item.champion is not None else "",
        "candidate": f"v{item.candidate.version}" if item.candidate is not None else "",
        "window": last.window.label if last is not None else "",
        "verdict": last.verdict + _about(item) if last is not None else "",
        "headline": last.headline if last is not None else "",
        "metric": f"{last.metric} {rounded(value)}{estimated}" if last is not None and value is not None else "",
        "labels": _share(last.coverage if last is not None else None),
        "scored": scoring.window.label if scoring is not None and scoring.window is not None else "",
        "pending": ", ".join(filter(None, pending)),
        "owner": item.owner or "",
    }


def _request(item: Overview) -> str:
    if item.request is None:
        return ""
    return "retraining requested" if item.request.started is None else "training started"


def _about(item: Overview) -> str:
    """Return, in brackets, whether the last verdict is older than the champion or was acknowledged; otherwise empty."""
    last, champion = item.monitoring, item.champion
    if last is not None and champion is not None and champion.since > last.checked:
        return f" (before v{champion.version})"
    return " (acknowledged)" if last is not None and last.acknowledged else ""


def _share(share: float | None) -> str:
    """Return whole percent, rounded down, so that only a complete share is 100%."""
    if share is not None and 0 < share < 0.01:
        return "<1%"
    return "" if share is None else f"{math.floor(round(100 * share, 9))}%"


def _show(facts: ModelFacts, output: str) -> None:
    console = AirflowConsole()
    lines = {name: value for name, value in _row(facts).items() if value}
    if facts.champion is not None:
        lines["reason"] = facts.champion.reason
    if facts.request is not None:
        lines["request"] = facts.request.reason
    if facts.request is not None and facts.request.started is not None:
        task = facts.request.training
        place = f" ({task.dag_id} {task.run_id})" if task is not None else ""
        lines["training"] = f"started {facts.request.started:%F %H:%M} UTC{place}"
    if facts.approval is not None:
        lines["approval"] = f"{facts.approval.subject} ({facts.approval.dag_id} {facts.approval.run_id})"
    for name, dags in facts.dags.model_dump().items():
        if dags:
            lines[f"{name} DAGs"] = ", ".join(dags)
    for name, value in lines.items():
        print(f"{name:<14}{value}")
    for detail in facts.details:
        print(f"  {detail}")
    sections = (
        ("Windows", [_window(point) for point in reversed(facts.windows[-_SHOWN:])]),
        ("Decisions", [_decision(item) for item in facts.decisions[:_SHOWN]]),
    )
    for title, rows in sections:
        if rows:
            print(f"\n{title}")
            console.print_as(rows, output)


def _window(point: Point) -> dict[str, Any]:
    return {
        "window": point.window.label,
        "verdict": point.verdict,
        "version": f"v{point.version}" if point.version is not None else "",
        "rows": f"{point.rows:,}",
        "labels": _share(point.coverage),
        "metric": point.metric or "",
        "realised": _level(point.realised),
        "estimated": _level(point.estimated),
        "headline": point.headline,
    }


def _level(level: Level | None) -> str:
    return f"{rounded(level.value)} ({rounded(level.low)} to {rounded(level.high)})" if level is not None else ""


def _decision(item: DecisionFacts) -> dict[str, Any]:
    return {
        "entry": item.seq,
        "time (UTC)": f"{item.time:%F %H:%M}",
        "decision": item.decision,
        "champion": f"v{item.champion}" if item.champion is not None else "",
        "window": item.window.label if item.window is not None else "",
        "by": item.by or "",
        "run": f"{item.dag_id} {item.run_id}".strip(),
        "reason": item.reason,
    }
