"""Follow the champion, or load one version, in a process of its own: ``python -m airflow_mlops.serving.follow``.

With a number or alias as argument, the version with this number or alias is followed instead.

The process has MLflow's client, which the server need not import, and loads each new champion once before the server does.
So a model that crashes the process that loads it does not end the server. It reads the settings as JSON from standard input,
and writes one JSON object in a line for each new champion, or for a failure.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.errors import MLOpsError, ModelFormatError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.secrets import MaskedStream
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.champion import download_champion
from airflow_mlops.models.onnx.scorer import has_contract
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.client import connect
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions import Served

_RETRY_SECONDS = 5.0


def main() -> None:
    """Report each new champion, or the version to serve, until standard input is closed, which is when the server ends."""
    logging.basicConfig(stream=MaskedStream(sys.stderr), level=logging.WARNING)
    spec = ServeSpec.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_server, daemon=True).start()
    store = ArtifactStore(spec.store)
    target = sys.argv[1] if len(sys.argv) > 1 else str(spec.version or models.CHAMPION)
    client: Any = None
    current: int | None = None
    said = ""
    while True:
        try:
            client = client or connect(spec.mlflow, from_environment)
            ref = models.find(client, spec.model, target)
            if ref is None:
                if current is not None and target != models.CHAMPION:
                    current = None
                    _say(removed=True)
                what = "Promote a version" if target == models.CHAMPION else "Set the alias in MLflow"
                raise MLOpsError(f"Model {spec.model!r} has no {target} yet. {what}.")
            if ref.version != current:
                _say(loading=ref.version)
                folder = _checked(client, store, ref, spec, other=len(sys.argv) > 1)
                _say(version=ref.version, run_id=ref.run_id, folder=str(folder))
                current, said = ref.version, ""
            if target.isdecimal():
                # A version never changes.
                threading.Event().wait()
            pause = spec.poll_seconds
        except MLOpsError as error:
            if str(error) != said:
                said = str(error)
                _say(error=said)
            client = client if isinstance(error, ModelFormatError) else None
            pause = max(spec.poll_seconds, _RETRY_SECONDS)
        time.sleep(pause)


def _checked(client: Any, store: ArtifactStore, ref: ModelVersionRef, spec: ServeSpec, *, other: bool) -> Path:
    folder = download_champion(client, store, ref, lambda text: print(text, file=sys.stderr))
    if not has_contract(folder):
        raise ModelFormatError(
            f"{ref} cannot be served, because TrainOperator did not train it. Score it in batches with ScoreOperator, or train "
            "a version with TrainOperator."
        )
    Served.load(ref, folder, store, spec, other=other)
    return folder


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def _end_with_server() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
