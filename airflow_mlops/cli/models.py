"""The commands that act on a model: serve, rollback, promote, reproduce and backtest."""

from __future__ import annotations

import os
import sys
import uuid
from argparse import Namespace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.platform import getuser

from airflow_mlops import server
from airflow_mlops.cli.command import command, run_step, store_of
from airflow_mlops.cli.ledger import open_ledger, require_entries
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import environment_name, to_json
from airflow_mlops.core.errors import SpecError, one_line
from airflow_mlops.core.windows import Window
from airflow_mlops.settings import default_store

_FIRST, _LAST = datetime(1, 1, 1, tzinfo=timezone.utc), datetime(9999, 12, 31, tzinfo=timezone.utc)


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
    found = open_ledger(args)
    require_entries(found.entries(), found)
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
    result = ReproduceResult.model_validate(run_step("reproduce", spec, args))
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
    result = BacktestResult.model_validate(run_step("backtest", spec, args))
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

    :param what: description of the file's content, for the error message
    :raises SpecError: the file cannot be read
    """
    import yaml

    if path is None:
        return None
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"The {what} file {path!r} cannot be read: {one_line(error)}.") from None
