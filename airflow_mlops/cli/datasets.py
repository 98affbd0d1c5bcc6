"""The commands that act on stored data: predictions, servers, purge, clean and datasets."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.platform import getuser

from airflow_mlops.cli.command import command, store_of
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.counts import counted
from airflow_mlops.core.durations import parse_duration
from airflow_mlops.core.errors import DatasetNotFoundError, MLOpsError, SpecError
from airflow_mlops.core.secrets import mask_urls
from airflow_mlops.core.windows import Window

if TYPE_CHECKING:
    from airflow_mlops.data.predictions.log import PredictionLog
    from airflow_mlops.data.store import ArtifactStore

# Smallest age of files that the command ``clean`` deletes. Newer files may belong to a running task.
_LEAST_AGE = timedelta(days=1)


@command
def predictions(args: Namespace) -> None:
    """Run ``airflow mlops predictions MODEL``, which summarizes the prediction log of a model."""
    from airflow_mlops.cli.tables import sections
    from airflow_mlops.data.predictions.log import PredictionLog
    from airflow_mlops.stages.predictions.query import summary

    log = PredictionLog(store_of(args), args.model, args.predictions)
    window = parse(Window, args.window, f"The command with --window {args.window}") if args.window else None
    _require_predictions(log, window)
    _require_dataset(log.store, args.outcomes)
    if args.files:
        files = log.files(window)
        print(json.dumps(files, indent=1) if args.json else "\n".join(files))
        return
    answers = summary(log, args.outcomes or f"{args.model}_outcomes", window)
    if args.json:
        print(answers.model_dump_json(indent=1))
        return
    for title, rows in sections(answers):
        print(f"\n{title}")
        AirflowConsole().print_as_table(rows)


def _require_predictions(log: PredictionLog, window: Window | None = None) -> None:
    if not log.entries(window):
        raise DatasetNotFoundError(
            f"The artifact store {log.store.url} has no predictions of model {log.model!r}"
            f"{f' in the window {window.label}' if window else ''} in dataset {log.name!r}. Correct the names"
            f"{' or --window' if window else ''}, or set --store to a different artifact store."
        )


def _require_dataset(store: ArtifactStore, name: str | None) -> None:
    from airflow_mlops.data.datasets import read_manifests

    if name is not None and next(iter(read_manifests(store, name)), None) is None:
        raise DatasetNotFoundError(
            f"The artifact store {store.url} has no dataset {name!r}. Correct --outcomes, or set --store to a different "
            "artifact store."
        )


@command
def servers(args: Namespace) -> None:
    """Run ``airflow mlops servers MODEL``, which shows the servers that log predictions.

    With ``--lost``, the command ends the record of a server whose spool is lost.
    """
    from airflow_mlops.serving.log.uptime import lose_spool, records

    store = store_of(args)
    found = records(store, args.model)
    if args.lost is None:
        rows = [
            {
                "server": name,
                "machine_and_spool": record.where,
                "since": f"{record.since:%F %T}",
                "complete_until": f"{record.until:%F %T}",
                "state": "ended" if record.ended else "open",
            }
            for name, record in sorted(found.items(), key=lambda item: item[1].since)
        ]
        AirflowConsole().print_as(rows, args.output)
        return
    record = found.get(args.lost)
    if record is None or record.ended:
        raise MLOpsError(
            f"--lost: model {args.model!r} has no open record of a server {args.lost!r} in {mask_urls(store.url)}. Choose an open one "
            f"in the table of: airflow mlops servers {args.model}"
        )
    lose_spool(store, args.model, args.lost, record, datetime.now(timezone.utc))


@command
def purge(args: Namespace) -> None:
    """Run ``airflow mlops purge MODEL --older-than 90D``, which deletes old predictions."""
    from airflow_mlops.data.predictions.log import PredictionLog
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.purge_predictions import step
    from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsSpec

    fields = {
        "model": args.model,
        "older_than": args.older_than,
        "predictions": args.predictions,
        "outcomes": args.outcomes,
        "dry_run": args.dry_run,
    }
    spec = parse(PurgePredictionsSpec, fields, "The purge")
    store = store_of(args)
    _require_predictions(PredictionLog(store, spec.model, spec.predictions))
    _require_dataset(store, spec.outcomes)
    print(step.run(spec, StepContext(store=store, provenance=Provenance(user=getuser()))).summary)


@command
def clean(args: Namespace) -> None:
    """Run ``airflow mlops clean --older-than 7D``, which deletes files of crashed tasks from the artifact store."""
    from airflow_mlops.cli.tables import leftover_rows
    from airflow_mlops.data.leftovers import find_leftovers, remove_leftovers

    store = store_of(args)
    leftovers = find_leftovers(store, _before(args.older_than))
    if leftovers.found or args.output == "json":
        AirflowConsole().print_as(leftover_rows(leftovers.found), args.output)
    if not args.dry_run:
        remove_leftovers(store, leftovers.found)
    size = sum(item.bytes or 0 for item in leftovers.found)
    uploads = sum(item.upload is not None for item in leftovers.found)
    print(
        f"{'Would delete' if args.dry_run else 'Deleted'} {counted(len(leftovers.found) - uploads, 'file')} ({size / 1e6:,.1f} MB) and "
        f"{counted(uploads, 'unfinished upload')} in {mask_urls(store.url)}.",
        file=sys.stdout if args.output in ("table", "plain") else sys.stderr,
    )
    for name, problem in leftovers.skipped.items():
        print(f"The files of dataset {name} were not checked. {problem}", file=sys.stderr)


def _before(older_than: str) -> datetime:
    try:
        age = parse_duration(older_than)
        if isinstance(age, timedelta) and age >= _LEAST_AGE:
            return datetime.now(timezone.utc) - age
    except OverflowError:
        pass
    raise SpecError(
        f"--older-than: {older_than!r} is not a duration of at least one day. Write it for example as 7D. Newer files may "
        "belong to running tasks."
    )


@command
def datasets(args: Namespace) -> None:
    """Run ``airflow mlops datasets [NAME]``, which lists, shows and withdraws datasets."""
    from airflow_mlops.cli.tables import dataset_names, dataset_rows
    from airflow_mlops.data.datasets import overview, pointers
    from airflow_mlops.data.datasets.catalog import slots_with

    store, chosen = store_of(args), args.show or args.withdraw
    if args.name is None:
        if chosen:
            raise MLOpsError("--show and --withdraw need the name of a dataset: airflow mlops datasets NAME ...")
        AirflowConsole().print_as(dataset_names(overview.all_names(store)), args.output)
        return
    found = overview.entries(store, args.name)
    if args.show:
        for entry in overview.choose(found, args.show, args.name):
            print(entry.manifest.model_dump_json(indent=1))
        return
    if args.withdraw is None:
        AirflowConsole().print_as(dataset_rows(found), args.output)
        return
    if not args.reason:
        raise MLOpsError("--withdraw needs --reason: the tombstone records why the window is withdrawn.")
    present = [entry for entry in found if entry.pointer is not None]
    for entry in overview.choose(present, args.withdraw, args.name):
        assert entry.pointer is not None
        pointers.withdraw(store, args.name, entry.pointer, args.reason, getuser())
        what = f"window {entry.window.label}" if entry.window else f"snapshot of {entry.written:%F %T} UTC"
        print(f"Withdrew the {what} of dataset {args.name} ({entry.manifest.id[:12]}). Its files and manifest stay.")
        if slots_with(store, entry.manifest):
            task = "labels are joined to it" if "labelled" in entry.manifest.details else "the window is scored"
            print(
                f"The prediction log still contains it until {task} again, or `airflow mlops purge` deletes its rows."
            )
