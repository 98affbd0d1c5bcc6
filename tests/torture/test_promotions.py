"""If many promotions run at once, one wins and no decision is lost, on S3 and Azure.

``tests/integration/stages/test_promote_crashes.py`` shows the same in a local folder. Only `make torture` promotes twenty, in
``MLOPS_TORTURE_ROUNDS`` rounds; otherwise, one round of six is enough.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator

import pytest

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.ledger import Ledger
from tests.integration.conftest import run_mlflow
from tests.integration.stages.test_promote import do, verdict
from tests.integration.stages.test_promote_crashes import state
from tests.support import object_stores

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("MLOPS_TORTURE_ROUNDS", "0"))
TASKS, ROUNDS = (20, ROUNDS) if ROUNDS else (6, 1)
MODEL = "raced"


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_mlflow(tmp_path_factory.mktemp("mlflow"), "127.0.0.1") as address:
        yield address


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_of_many_promotions_at_once_one_wins_and_none_is_lost(kind, mlflow, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow}))
    client = connect(MLflowTarget(), from_environment)
    model = f"{MODEL}-{kind}"
    client.create_registered_model(model)
    run = client.create_run("0")
    first, *candidates = (
        ModelVersionRef(model=model, version=int(made.version), run_id=run.info.run_id)
        for made in (
            client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id)
            for _ in range(1 + ROUNDS * TASKS)
        )
    )
    with getattr(object_stores, kind)() as url:
        store = ArtifactStore(url)
        do(store, verdict(first, None), "first")
        now = first
        for turn in range(ROUNDS):
            of_round = candidates[turn * TASKS : (turn + 1) * TASKS]
            promote_at_once(url, of_round, now)
            entries = Ledger(store, model).entries(every_file=True)[1 + turn * TASKS :]
            assert sorted(entry.id for entry in entries) == sorted(f"promote v{item.version}" for item in of_round)
            (won,) = [entry for entry in entries if entry.moves]
            assert won.replaced == now
            now = won.champion
            assert state(client, store, model) == (now, now, 1 + (turn + 1) * TASKS)


def promote_at_once(url: str, candidates: list[ModelVersionRef], now: ModelVersionRef) -> None:
    """Promote each candidate in a separate process."""
    starts, start = os.pipe()
    children = []
    for candidate in candidates:
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(start)
                # The end of the pipe is closed once all processes exist.
                os.read(starts, 1)
                # Filesystems of object stores do not work in a process that was forked after they were created.
                do(ArtifactStore(url), verdict(candidate, now), f"promote v{candidate.version}")
                status = 0
            except BaseException:  # noqa: BLE001 - the process ends here in any case
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    os.close(start)
    os.close(starts)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * len(candidates)
