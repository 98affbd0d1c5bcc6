"""Check whether the champion was changed in MLflow without this package, and record the change in the ledger.

``python -m airflow_mlops.stages.outside_moves.step`` checks once. The command reads a :class:`Look` as JSON from
standard input. The last line of output is a JSON object, which contains ``result`` (always null: the ledger has the
result), or ``error`` and ``message`` after an error.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.secrets import MaskedStream
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import index
from airflow_mlops.registry import outside_moves
from airflow_mlops.registry.aliases import last_move
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.records.outside_move import Observer
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.outside_moves.spec import OutsideMovesResult, OutsideMovesSpec


class Look(Model):
    """One check of the champion.

    :param store: URL of the artifact store
    :param key: the ``id`` of a new entry
    """

    spec: OutsideMovesSpec
    store: str
    key: str


def run(spec: OutsideMovesSpec, context: StepContext) -> OutsideMovesResult | None:
    """Record that the champion was changed in MLflow.

    :return: the new entry; ``None`` if the ledger names the same champion
    :raises RegistryError: MLflow cannot be used, or the ledger was tampered with
    """
    context = context.for_call()
    client = connect(spec.mlflow, context.connection)
    ledger = Ledger(context.store, spec.model)
    entry = outside_moves.record(client, ledger, context.key, spec.noticed_by)
    if entry is None:
        return None
    index.update(context.store, spec.model, "decisions")
    return _result(ledger, entry)


def last(ledger: Ledger, noticed_by: Observer) -> OutsideMovesResult | None:
    """Return the last change of the champion if ``noticed_by`` has recorded it; ``None`` otherwise.

    :raises StoreError: the ledger cannot be read
    :raises RegistryError: the ledger was tampered with
    """
    move = last_move(ledger.entries())
    if move is None or move.outside is None or move.outside.noticed_by != noticed_by:
        return None
    return _result(ledger, move)


def _result(ledger: Ledger, entry: Entry) -> OutsideMovesResult:
    return OutsideMovesResult(
        model=ledger.model,
        champion=entry.champion,
        replaced=entry.replaced,
        reason=entry.reason,
        ledger_url=ledger.url(entry.seq),
        seq=entry.seq,
        summary=entry.reason,
    )


def main() -> None:
    """Run one check that standard input describes, and print the error, or null, as JSON."""
    # Libraries log and print URLs with credentials.
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s", force=True)
    outcome: dict[str, Any] = {"result": None}
    try:
        look = Look.model_validate_json(sys.stdin.read())
        run(look.spec, StepContext(ArtifactStore(look.store), look.key))
    except MLOpsError as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(f"\n{json.dumps(outcome)}\n")


if __name__ == "__main__":
    main()
