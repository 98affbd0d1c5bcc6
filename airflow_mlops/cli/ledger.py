"""The command that shows and verifies the ledger of a model."""

from __future__ import annotations

import sys
from argparse import Namespace
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
from airflow_mlops.core.references import MLflowTarget

if TYPE_CHECKING:
    from airflow_mlops.registry.ledger import Ledger
    from airflow_mlops.registry.records.entry import Entry


@command
def ledger(args: Namespace) -> None:
    """Run ``airflow mlops ledger MODEL``, which shows or verifies the ledger of a model, or its requests."""
    found = open_ledger(args)
    entries = found.entries()
    if args.requests:
        _show_requests(found, entries, args)
        return
    require_entries(entries, found)
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


def open_ledger(args: Namespace) -> Ledger:
    """Open the ledger of the model that a command names."""
    from airflow_mlops.registry.ledger import Ledger

    return Ledger(store_of(args), args.model)


def require_entries(entries: list[Entry], ledger: Ledger) -> None:
    """Raise :class:`MLOpsError` if the ledger has no entries."""
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
