"""The commands of ``airflow mlops``. A command that fails prints an error to standard error and exits with status 1."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import uuid
from argparse import Namespace
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import action_cli, suppress_logs_and_warning
from airflow.utils.platform import getuser

from airflow_mlops import __version__, server
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance, Spec, StepCall
from airflow_mlops.core.connections import environment_name, to_json
from airflow_mlops.core.counts import counted
from airflow_mlops.core.durations import parse_duration
from airflow_mlops.core.errors import (
    ConnectionNotFoundError,
    ConnectionUnavailableError,
    DatasetNotFoundError,
    MLOpsError,
    RegistryUnavailableError,
    SpecError,
    one_line,
)
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.core.secrets import mask_urls
from airflow_mlops.core.windows import Window
from airflow_mlops.settings import default_store, step_environment

if TYPE_CHECKING:
    from airflow_mlops.data.predictions.log import PredictionLog
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.registry.ledger import Entry, Ledger

_log = logging.getLogger("airflow_mlops.cli")
# Arguments without a flag.
_POSITIONAL = ("model", "version")
# Smallest age of files that the command ``clean`` deletes. Newer files may belong to a running task.
_LEAST_AGE = timedelta(days=1)
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=timezone.utc), datetime(9999, 12, 31, tzinfo=timezone.utc)


def command(function: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Turn a function into a command.

    An error of this package is printed without a traceback, and the exit status is 1. Airflow's audit log records the
    command.
    """

    @functools.wraps(function)
    def run(args: Namespace) -> None:
        # As in a task: some commands run steps in this process.
        os.environ.update(step_environment())
        try:
            function(args)
        except MLOpsError as error:
            raise SystemExit(_with_flags(str(error), args)) from None

    # action_cli records the command and the user in Airflow's audit log.
    recorded: Callable[[Namespace], None] = action_cli(check_db=False)(suppress_logs_and_warning(run))
    return recorded


def _with_flags(message: str, args: Namespace) -> str:
    """Replace the parameters of the step that an error message names with the arguments of the command."""
    for name in vars(args):
        argument = name.upper() if name in _POSITIONAL else f"--{name.replace('_', '-')}"
        # parse() writes a name as "older_than: ...", and the steps write it between backquotes or as "older_than=".
        # In a shell, a mapping is one word.
        message = re.sub(rf"\b{name}=(\{{[^{{}}]*\}})", rf'{argument} "\1"', message)
        message = re.sub(rf"(?<=[:;] ){name}(?=: )|`{name}`|\b{name}=", argument, message)
    return message.replace("mlflow.conn_id: ", "--mlflow-conn-id: ")


@command
def ledger(args: Namespace) -> None:
    """Run ``airflow mlops ledger MODEL``, which shows or verifies the ledger of a model, or its requests."""
    found = _ledger(args)
    entries = found.entries()
    if args.requests:
        _show_requests(found, entries, args)
        return
    _require(entries, found)
    if args.verify:
        entries, warning = _verify(found, args)
        found.require_signatures()
        print(
            f"The ledger of model {args.model!r} is complete and unchanged. It has {len(entries)} entries, the last "
            f"one from {entries[-1].time:%F %T} UTC.{warning}"
        )
        return
    AirflowConsole().print_as([_row(entry) for entry in entries], args.output)


def _show_requests(found: Ledger, entries: list[Entry], args: Namespace) -> None:
    """Show the requests for retraining and the DAGs that listen to them.

    The exit status is 1 if no active DAG listens.
    """
    from airflow_mlops.cli.tables import listeners, request_rows
    from airflow_mlops.registry.requests import read_answer, recorded_requests

    recorded = recorded_requests(found.store, args.model, entries)
    rows = request_rows(recorded, {item.request.id: read_answer(found.store, item.request) for item in recorded})
    if rows or args.output == "json":
        AirflowConsole().print_as(rows, args.output)
    consumers = server.retraining_consumers(args.model)
    print(listeners(args.model, consumers), file=sys.stdout if args.output in ("table", "plain") else sys.stderr)
    if all(dag.paused for dag in consumers):
        raise SystemExit(1)


def _ledger(args: Namespace) -> Ledger:
    from airflow_mlops.registry.ledger import Ledger

    return Ledger(store_of(args), args.model)


def store_of(args: Namespace) -> ArtifactStore:
    """Open the artifact store of a command: ``--store``, or by default ``[mlops] artifacts``."""
    from airflow_mlops.data.store import ArtifactStore

    return ArtifactStore(args.store or default_store())


def _require(entries: list[Entry], ledger: Ledger) -> None:
    if not entries:
        raise MLOpsError(
            f"The artifact store {ledger.store.url} has no ledger of model {ledger.model!r}. Correct the model's name, "
            "or set --store to a different artifact store."
        )


def _verify(ledger: Ledger, args: Namespace) -> tuple[list[Entry], str]:
    """Verify the ledger and the files of the champion.

    :return: the entries of the ledger, and a note about the champion's files or about what could not be checked
    """
    from airflow_mlops.registry.aliases import verify
    from airflow_mlops.registry.client import connect
    from airflow_mlops.registry.integrity import verify_champion

    try:
        client = connect(MLflowTarget(conn_id=args.mlflow_conn_id), server.connection)
    except (ConnectionNotFoundError, ConnectionUnavailableError, RegistryUnavailableError) as error:
        return (
            ledger.entries(every_file=True),
            f" The ledger was not compared with MLflow, so a removal of the last entries would not be noticed. {error}",
        )
    entries = verify(client, ledger)
    return entries, f" {verify_champion(client, ledger.model, entries)}"


def _row(entry: Entry) -> dict[str, Any]:
    from airflow_mlops.overview.decisions import user_of

    versions = [entry.champion] if entry.moves else [found.candidate for found in entry.candidates]
    if entry.endpoint is not None:
        versions = [entry.endpoint.version]
    if entry.canary is not None:
        versions = [entry.canary.version]
    if entry.received is not None:
        versions = [entry.received.version]
    provenance = entry.provenance
    return {
        "entry": entry.seq,
        "time": entry.time.isoformat(timespec="seconds"),
        "decision": entry.decision,
        "version": ", ".join(str(ref.version) for ref in versions if ref is not None),
        "replaced": str(entry.replaced.version) if entry.moves and entry.replaced else "",
        "user": user_of(entry) or "",
        "run": " ".join(filter(None, [provenance.dag_id, provenance.run_id])),
        "requested": entry.requested.window.label if entry.requested else "",
        "reason": entry.reason,
    }


@command
def serve(args: Namespace) -> None:
    """Run ``airflow mlops serve MODEL``, which replaces this process with a server that does not import Airflow."""
    connection = server.connection(args.mlflow_conn_id)
    options = [args.model, "--store", store_of(args).url, "--mlflow-conn-id", args.mlflow_conn_id, "--host", args.host]
    options += ["--port", str(args.port), "--window", args.window]
    for name in ("predictions", "shadow", "canary", "canary_share", "canary_key", "spool", "version", "feast_repo"):
        if (value := getattr(args, name)) is not None:
            options += [f"--{name.replace('_', '-')}", str(value)]
    environment = {**os.environ, environment_name(args.mlflow_conn_id): to_json(connection)}
    for name in ("hash_column", "drop_column"):
        options += [f"--{name.replace('_', '-')}={column}" for column in getattr(args, name) or ()]
    if args.hash_conn_id:
        options += ["--hash-conn-id", args.hash_conn_id]
        environment[environment_name(args.hash_conn_id)] = to_json(server.connection(args.hash_conn_id))
    options += ["--sample", str(args.sample), *(["--no-log"] if args.no_log else [])]
    command = [sys.executable, "-m", "airflow_mlops.serving", *options]
    os.execve(sys.executable, command, environment)  # noqa: S606 - the arguments are a list


@command
def rollback(args: Namespace) -> None:
    """Run ``airflow mlops rollback MODEL --reason ...``, which makes an earlier champion the champion again."""
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.rollback import step
    from airflow_mlops.stages.rollback.spec import RollbackSpec

    fields = {
        "model": args.model,
        "to_version": args.to_version,
        "reason": args.reason,
        "mlflow": {"conn_id": args.mlflow_conn_id},
    }
    spec = parse(RollbackSpec, fields, "The rollback")
    # Without a ledger, there is no earlier champion. This check comes first, because importing MLflow takes seconds.
    found = _ledger(args)
    _require(found.entries(), found)
    user = getuser()
    context = StepContext(
        store=store_of(args),
        key=step.interrupted(spec, store_of(args), server.connection, user) or f"cli/{uuid.uuid4().hex}",
        connection=server.connection,
        provenance=Provenance(user=user),
    )
    result = step.run(spec, context)
    print(result.summary)
    if result.rolled_back:
        server.emit_champion(result)


@command
def promote(args: Namespace) -> None:
    """Run ``airflow mlops promote MODEL VERSION --to CONN_ID``, which makes a received version the champion."""
    from airflow_mlops.registry.stores import store_of as registry_store
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.promote import received

    fields = {
        "model": args.model,
        "version": args.version,
        "replaces": None if args.replaces == "none" else args.replaces,
        "reason": args.reason,
        "mlflow": {"conn_id": args.to},
    }
    spec = parse(received.ReceivedSpec, fields, "The promotion")
    store = store_of(args) if args.store else registry_store(server.connection(args.to), default_store())
    context = StepContext(
        store=store,
        key=f"cli/{uuid.uuid4().hex}",
        connection=server.connection,
        provenance=Provenance(user=getuser()),
    )
    result = received.run(spec, context)
    print(result.summary)
    # The asset does not name a registry. An event about the champion in another registry would start this registry's
    # DAGs.
    if result.promoted and store.url == default_store().rstrip("/"):
        server.emit_champion(result)


@command
def reproduce(args: Namespace) -> None:
    """Run ``airflow mlops reproduce MODEL VERSION``, which trains a version again and compares the results."""
    from airflow_mlops.stages.reproduce.spec import ReproduceResult, ReproduceSpec

    fields = {
        "model": args.model,
        "version": args.version,
        "allow_code": args.allow_code,
        "mlflow": {"conn_id": args.mlflow_conn_id},
    }
    spec = parse(ReproduceSpec, fields, "The reproduction")
    result = ReproduceResult.model_validate(_run_step("reproduce", spec, args))
    AirflowConsole().print_as([item.model_dump() for item in result.comparisons], args.output)
    print(result.summary, file=sys.stdout if args.output in ("table", "plain") else sys.stderr)
    if not result.reproduced:
        raise SystemExit(1)


@command
def backtest(args: Namespace) -> None:
    """Run ``airflow mlops backtest MODEL``, which replays a retraining policy over the labelled windows of a model."""
    from airflow_mlops.cli.tables import replayed
    from airflow_mlops.stages.backtest.spec import BacktestResult, BacktestSpec

    fields = {
        "model": args.model, "version": args.version, "outcomes": args.outcomes, "window": _between(args.first, args.last),
        "delay": args.delay, "policy": _yaml(args.policy, "policy") or {}, "trainer": _yaml(args.trainer, "trainer"),
        "mlflow": {"conn_id": args.mlflow_conn_id},
    }  # fmt: skip
    spec = parse(BacktestSpec, fields, "The backtest")
    result = BacktestResult.model_validate(_run_step("backtest", spec, args))
    AirflowConsole().print_as(replayed(result), args.output)
    print(
        f"{result.summary}\nPage: {result.page_url}",
        file=sys.stdout if args.output in ("table", "plain") else sys.stderr,
    )


def _between(first: str | None, last: str | None) -> Window | None:
    """Return the window from the beginning of ``first`` to the end of ``last``; ``None`` if both are ``None``.

    Without ``first``, the window begins with the year 1. Without ``last``, the window ends with the year 9999.

    :raises SpecError: a text is not a window, or ``last`` ends before ``first`` begins
    """
    if first is None and last is None:
        return None
    begin = parse(Window, first, f"The command with --from {first}") if first else None
    end = parse(Window, last, f"The command with --to {last}") if last else None
    ends = {"start": begin.start if begin else _FIRST, "end": end.end if end else _LAST}
    zone = (begin or end).zone  # type: ignore[union-attr]
    return parse(Window, {**ends, "zone": zone}, f"The command with --from {first} --to {last}")


def _yaml(path: str | None, what: str) -> Any:
    """Read a YAML file; return ``None`` if ``path`` is ``None``.

    :param what: content of the file in words, for the error message
    :raises SpecError: the file cannot be read
    """
    import yaml

    if path is None:
        return None
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"The {what} file {path!r} cannot be read: {one_line(error)}.") from None


def _run_step(step: str, spec: Spec, args: Namespace) -> dict[str, Any]:
    """Run a step in a separate process, as an operator would, and return its result."""
    from airflow_mlops.compute import Process
    from airflow_mlops.compute.base import runner_for
    from airflow_mlops.core.connections import environment_name, to_json

    store = store_of(args)
    call = StepCall(
        step=step,
        spec=spec.model_dump(mode="json"),
        store=store.url,
        key=f"results/cli/{uuid.uuid4().hex}.json",
        version=__version__,
        provenance=Provenance(user=getuser()),
    )
    environment = {
        environment_name(args.mlflow_conn_id): to_json(server.connection(args.mlflow_conn_id)),
        # Modules of user-defined trainers are next to the DAG files.
        "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, server.dags_folder()])),
    }
    try:
        return runner_for(Process(sys.executable, environment), _log).run(call, set(), {})
    finally:
        store.delete(call.key)


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
