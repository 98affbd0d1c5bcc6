"""A canary in a real MLflow registry: each run of the task makes one step, which is in the ledger once, and in MLflow."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.registry import canary as canaries
from airflow_mlops.registry import canary_counts
from airflow_mlops.registry.canary_counts import ServerCounts, ShareCounts
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import by_alias, champion
from airflow_mlops.stages.canary import step as canary
from airflow_mlops.stages.canary.spec import CanarySpec
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from tests.support.candidates import register, training_set

LABELS = 60


@pytest.fixture
def model(client, store, tmp_path):
    """A model with a champion and two challengers, of which the first has the alias."""
    name = f"delays_{uuid.uuid4().hex[:8]}"
    dataset = training_set(store, name=f"{name}_training")
    made = [register(client, tmp_path / f"v{number}", dataset, (2, number), model=name) for number in range(3)]
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "challenger", "2")
    return SimpleNamespace(name=name, versions=made, until=datetime.now(timezone.utc))


@pytest.fixture
def do(store, model):
    def run(key: str, **fields):
        fields = {"version": "challenger", "shares": [0.1, 0.5], "min_labels": LABELS - 10, "metric": "brier", **fields}
        return canary.run(CanarySpec(model=model.name, **fields), StepContext(store=store, key=key))

    return run


@pytest.fixture
def answer(store, model):
    """Labelled predictions of now, of the champion and of a canary with an error of its own."""

    def write(error: float, version: int = 2, champion: int = 1) -> None:
        now = datetime.now(timezone.utc)
        window = Window(start=model.until, end=now + timedelta(microseconds=1))
        model.until = window.end
        for name, number, rows, wrong in (("", champion, 4 * LABELS, 0.3), ("_canary", version, LABELS, error)):
            scores = np.clip(np.random.default_rng(7).normal(wrong, 0.05, rows), 0, 1)
            table = pa.table(
                {
                    "prediction": scores > 0.5, "score": scores, "model_name": [model.name] * rows,
                    "model_version": [number] * rows, "scored_at": pa.array([now] * rows, pa.timestamp("us", "UTC")),
                    "latency_ms": [2.0] * rows, "request_row": [0] * rows, "label": [False] * rows,
                }
            )  # fmt: skip
            with DatasetWriter(store, f"{model.name}{name}_outcomes") as writer:
                writer.write(table)
                writer.commit(window=window, details={"model": model.name})

    return write


def share(client, model, version: int = 2) -> str | None:
    return client.get_model_version(model.name, str(version)).tags.get(canaries.SHARE_TAG)


def test_a_canary_is_widened_and_promoted_with_each_step_in_the_ledger(client, store, model, do, answer):
    v1, v2, _ = model.versions
    assert do("before", version="nobody").state == "idle"
    with pytest.raises(SpecError, match="cannot be compared by 'f1'"):
        do("wrong", metric="f1")
    started = do("a")
    assert (started.state, started.version, started.share, started.champion) == ("started", v2, 0.1, v1)
    assert (share(client, model), by_alias(client, model.name, "canary")) == ("0.1", v2)
    waiting = do("b")
    assert (waiting.state, waiting.share, waiting.ledger_url) == ("waiting", 0.1, None)
    assert "0 so far" in waiting.reason
    answer(0.3)
    widened = do("c")
    assert (widened.state, widened.share, widened.promoted) == ("widened", 0.5, False)
    assert share(client, model) == "0.5"
    # A retry makes no new decision, and each label is counted once.
    assert do("c") == widened
    assert do("d").state == "waiting"
    answer(0.3)
    passed = do("e", promote=False)
    assert (passed.state, passed.share, passed.verdict.winner) == ("passed", 0.5, v2)
    assert champion(client, model.name) == v1
    answer(0.3)
    promoted = do("f")
    assert (promoted.state, promoted.promoted, promoted.champion, promoted.replaced) == ("promoted", True, v2, v1)
    assert (champion(client, model.name), by_alias(client, model.name, "canary")) == (v2, None)
    assert share(client, model) == "0"
    entries = Ledger(store, model.name).entries()
    assert [(entry.decision, entry.canary.share, entry.canary.looks) for entry in entries] == [
        ("canary_started", 0.1, 0), ("canary_widened", 0.5, 1), ("canary_held", 0.5, 2), ("promoted", 0.0, 3),
    ]  # fmt: skip
    gate = entries[1].candidates[0].gates[0]
    assert (gate.gate, gate.passed, gate.rows) == ("Brier score no worse than the champion", True, LABELS)
    assert entries[-1].files
    assert [gate.confidence for gate in entries[-1].candidates[0].gates] == [pytest.approx(1 - 0.05 / 24)] * 2
    assert "is the champion" in do("g").reason


def test_a_worse_canary_is_withdrawn_and_not_started_again(client, store, model, do, answer):
    do("a")
    answer(0.6)
    found = do("b")
    assert (found.state, found.share, found.promoted) == ("withdrawn", 0, False)
    assert "which is significant" in found.reason
    assert (share(client, model), by_alias(client, model.name, "canary")) == ("0", None)
    again = do("c")
    assert (again.state, again.ledger_url) == ("idle", None)
    assert "has ended with entry 2" in again.reason
    # The withdrawal of one version does not affect the canary of another version.
    client.set_registered_model_alias(model.name, "challenger", "3")
    assert do("d").state == "started"
    assert by_alias(client, model.name, "canary") == model.versions[2]


def test_a_canary_that_fails_requests_of_all_servers_together_is_withdrawn_without_labels(
    client, store, model, do, answer
):
    def count(server: str, failed: int, champion: int = 1, **changes) -> None:
        shares = {0.1: ShareCounts(canary=200, canary_failed=failed, champion=1_800, champion_failed=2)}
        fields = {"server": server, "canary": 2, "champion": champion, "began": datetime.now(timezone.utc), **changes}
        canary_counts.write(store, model.name, ServerCounts(shares=shares, **fields))

    do("a")
    count("one", 3)
    # Counts of an earlier rollout, and of one with another champion.
    count("old", 100, began=datetime.now(timezone.utc) - timedelta(days=1))
    count("other", 100, champion=3)
    assert do("b").state == "waiting"
    answer(0.3)
    assert do("c").state == "widened"
    *_, gate = Ledger(store, model.name).entries()[-1].candidates[0].gates
    assert (gate.measured, gate.rows, gate.passed) == (3 / 200, 200, True)
    # A new file of a server replaces its old file. The counts of all servers are added up.
    count("one", 4)
    count("two", 7)
    found = do("d")
    assert (found.state, found.share, share(client, model)) == ("withdrawn", 0, "0")
    assert "failed 11 of 400 requests (2.75%) and the champion 4 of 3,600" in found.reason
    (gate,) = Ledger(store, model.name).entries()[-1].candidates[0].gates
    assert not gate.passed


def test_one_server_withdraws_the_canary_for_all_servers_once(client, store, model, do):
    do("a")
    ledger = Ledger(store, model.name)
    assert not canaries.withdraw(client, ledger, 3, "Another version.")
    for _ in range(2):
        canaries.withdraw(client, Ledger(store, model.name), 2, "A server withdrew it.")
    assert [entry.decision for entry in ledger.entries()] == ["canary_started", "canary_withdrawn"]
    assert (share(client, model), by_alias(client, model.name, "canary")) == ("0", None)
    assert "A server withdrew it." in do("b").reason


def test_a_crashed_step_is_completed_and_a_new_champion_starts_a_new_rollout(client, store, model, do, answer):
    do("a")
    # The state is the same as after a crash between the ledger entry and the change in MLflow.
    client.delete_registered_model_alias(model.name, "canary")
    client.delete_model_version_tag(model.name, "2", canaries.SHARE_TAG)
    assert do("b").state == "waiting"
    assert (share(client, model), by_alias(client, model.name, "canary")) == ("0.1", model.versions[1])
    client.set_registered_model_alias(model.name, "champion", "3")
    again = do("c")
    assert again.state == "started"
    assert "is no longer the champion" in again.reason
    # If another task promotes the version, it is no longer a canary, even after a rollback.
    answer(0.3, champion=3)
    passed = do("passed", shares=[0.1], promote=False)
    assert passed.state == "passed"
    won = PromoteSpec(verdict=passed.model_dump(mode="json"))
    promoted = promote.run(won, StepContext(store=store, key="promote"))
    assert (promoted.promoted, promoted.champion, promoted.replaced) == (True, model.versions[1], model.versions[2])
    assert do("d").state == "idle"
    assert (share(client, model), by_alias(client, model.name, "canary")) == ("0", None)
    client.set_registered_model_alias(model.name, "champion", "3")
    assert "has ended" in do("e").reason


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import CanaryOperator

with DAG({dag_id!r}, params={{"share": 0.5}}, default_args={{"store": {store!r}}}):
    CanaryOperator(
        task_id="canary", model={model!r}, version="challenger", shares=["{{{{ params.share }}}}"], metric="brier",
        min_labels=50, confidence="{{{{ 0.95 }}}}",
    )
"""


def test_each_run_of_the_task_makes_one_step_and_a_promotion_sends_the_champion_asset(
    client, store, model, answer, run_dag, mlflow_connection
):
    source = DAG.format(dag_id=f"{model.name}_canary", store=store.url, model=model.name)

    def step() -> tuple[str, list[int], str]:
        run = run_dag(source)
        assert run.state == "success"
        events = run.asset_events()
        assert {uri for uri, _ in events} <= {f"mlops://{model.name}/champion"}
        return run.xcom("canary")["state"], [extra["version"] for _, extra in events], run.shown("canary").split(":")[0]

    # The champion of the fixture was made without Airflow, so the first task sends its event.
    assert step() == ("started", [1], "started 50%")
    assert step() == ("waiting", [], "waiting 50%")
    answer(0.3)
    assert step() == ("promoted", [2], "promoted")
    assert champion(client, model.name) == model.versions[1]
    assert [(entry.decision, entry.provenance.task_id) for entry in Ledger(store, model.name).entries()] == [
        ("canary_started", "canary"), ("promoted", "canary"),
    ]  # fmt: skip
