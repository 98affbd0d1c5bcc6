"""Promotions and rollbacks in a real MLflow registry: each decision is in the ledger once, and crashes lose nothing."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.approval import ApprovalRecord
from airflow_mlops.registry.records.verdict import CandidateVerdict, GateResult, Verdict
from airflow_mlops.registry.versions import champion
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.rollback import step as rollback
from airflow_mlops.stages.rollback.spec import RollbackSpec
from tests.support.candidates import register, training_set

PROVENANCE = Provenance(dag_id="delays_train", run_id="manual", task_id="promote", user="ada")


@pytest.fixture
def versions(client):
    """Three versions of a model of this test alone; promoting looks at none of their files."""
    model = f"delays_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(model)
    run = client.create_run("0", tags={"mlops.code_hash": "abc", "other": "x"})
    made = [client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id) for _ in range(3)]
    return [ModelVersionRef(model=model, version=int(item.version), run_id=run.info.run_id) for item in made]


def verdict(winner: ModelVersionRef | None, against: ModelVersionRef | None, *candidates: ModelVersionRef) -> Verdict:
    gate = GateResult(
        gate="roc_auc at least 0.6", measured=0.7, asked=0.6, passed=winner is not None, explanation="It is."
    )
    listed = candidates or (winner,)
    return Verdict(
        model=listed[0].model, dataset_name="delays_training", dataset_id="d" * 64, part="test", metric="roc_auc",
        winner=winner, champion=against,
        candidates=[
            CandidateVerdict(candidate=item, metrics={"roc_auc": 0.7}, gates=[gate], passed=winner is not None)
            for item in listed
        ],
        reason="It passed every gate." if winner else "No candidate passed every gate.",
    )  # fmt: skip


def do(store, found: Verdict, key: str):
    return promote.run(PromoteSpec(verdict=found), StepContext(store=store, key=key, provenance=PROVENANCE))


def back(store, model: str, key: str, **options):
    spec = RollbackSpec(model=model, **{"reason": "It was wrong about snow.", **options})
    return rollback.run(spec, StepContext(store=store, key=key, provenance=PROVENANCE))


def test_the_winner_becomes_champion_and_the_replaced_version_is_recorded(client, store, versions):
    v1, v2, _ = versions
    first = do(store, verdict(v1, None), "a")
    assert (first.promoted, first.champion, first.replaced) == (True, v1, None)
    second = do(store, verdict(v2, v1), "b")
    assert (second.promoted, second.champion, second.replaced) == (True, v2, v1)
    assert second.metrics == {"roc_auc": 0.7}
    assert second.summary == f"Promoted {v2} in place of v1: It passed every gate."
    assert champion(client, v1.model) == v2
    assert client.get_model_version_by_alias(v1.model, "previous_champion").version == "1"
    tags = client.get_model_version(v1.model, "2").tags
    assert (tags["mlops.replaced"], tags["mlops.ledger_entry"]) == ("1", "2")


def test_the_ledger_records_data_code_gates_and_user(client, store, versions):
    v1, v2, _ = versions
    do(store, verdict(v1, None), "a")
    result = do(store, verdict(v2, v1), "b")
    _, entry = Ledger(store, v1.model).entries()
    assert (entry.decision, entry.champion, entry.replaced) == ("promoted", v2, v1)
    assert (entry.dataset_name, entry.dataset_id) == ("delays_training", "d" * 64)
    assert entry.code["mlops.code_hash"] == "abc"
    assert "airflow_mlops" in entry.code
    assert "other" not in entry.code
    assert entry.candidates[0].gates[0].measured == 0.7
    assert (entry.provenance, entry.reason, entry.approval) == (PROVENANCE, "It passed every gate.", None)
    assert json.loads(store.fs.cat_file(result.ledger_url))["seq"] == 2


def test_without_a_winner_the_refusal_and_its_reason_are_recorded(client, store, versions):
    v1, v2, _ = versions
    do(store, verdict(v1, None), "a")
    result = do(store, verdict(None, v1, v2), "b")
    assert (result.promoted, result.champion, result.replaced, result.metrics) == (False, v1, None, {})
    assert result.summary == f"Nothing was promoted for {v1.model}: No candidate passed every gate."
    assert champion(client, v1.model) == v1
    entry = Ledger(store, v1.model).entries()[-1]
    assert (entry.decision, entry.champion, entry.candidates[0].candidate) == ("refused", v1, v2)


def test_a_verdict_about_an_earlier_champion_is_refused(client, store, versions):
    v1, v2, v3 = versions
    do(store, verdict(v1, None), "a")
    do(store, verdict(v2, v1), "b")
    result = do(store, verdict(v3, v1), "c")
    assert not result.promoted
    assert (
        result.reason
        == "The candidates were compared with the champion v1, but now the champion is v2. Evaluate the candidates again."
    )
    assert champion(client, v1.model) == v2
    assert [entry.decision for entry in Ledger(store, v1.model).entries()] == ["promoted", "promoted", "refused"]


def evaluated_on(store, found: Verdict, window: str) -> Verdict:
    """The verdict, about held-out rows of a window."""
    with DatasetWriter(store, found.dataset_name) as writer:
        writer.write(pa.table({"window": [window]}))
        manifest, _ = writer.commit(window=Window.model_validate(window))
    return found.model_copy(update={"dataset_id": manifest.id})


def test_a_champion_that_was_chosen_on_a_later_window_is_replaced_only_by_a_person(client, store, versions):
    """A user clears the tasks of an earlier run, on whose rows the newer champion is worse."""
    v1, v2, v3 = versions
    do(store, evaluated_on(store, verdict(v1, None), "2013-01..2013-02"), "a")
    do(store, evaluated_on(store, verdict(v2, v1), "2013-02..2013-03"), "b")
    old = evaluated_on(store, verdict(v3, v2), "2013-01..2013-02")
    refused = do(store, old, "c")
    assert not refused.promoted
    assert "which ends later" in refused.reason
    assert champion(client, v1.model) == v2
    yes = ApprovalRecord(by="ada", at=datetime(2013, 4, 1, tzinfo=timezone.utc), decision="approved")
    spec = PromoteSpec(verdict=old, needs_approval=True, approval=yes.model_copy(update={"by": ""}))
    assert not promote.run(spec, StepContext(store=store, key="d")).promoted
    spec = spec.model_copy(update={"approval": yes})
    assert promote.run(spec, StepContext(store=store, key="e")).promoted
    # The champion is of the same window now.
    assert do(store, evaluated_on(store, verdict(v1, v3), "2013-02"), "f").promoted


def test_only_the_first_of_two_verdicts_about_the_same_champion_is_carried_out(client, store, versions, monkeypatch):
    v1, v2, v3 = versions
    do(store, verdict(v1, None), "a")
    real = ArtifactStore.create_exclusive
    other = []

    def overtaken(self, key, data):
        # Another task decides after this task has read the champion and before it appends its entry.
        if not other:
            other.append(None)
            other[0] = do(store, verdict(v3, v1), "quicker")
        return real(self, key, data)

    monkeypatch.setattr(ArtifactStore, "create_exclusive", overtaken)
    result = do(store, verdict(v2, v1), "slower")
    assert other[0].promoted
    assert not result.promoted
    assert "now the champion is v3" in result.reason
    assert champion(client, v1.model) == v3


def test_promoting_the_champion_again_changes_nothing(store, versions):
    v1, *_ = versions
    do(store, verdict(v1, None), "a")
    result = do(store, verdict(v1, None), "cleared")
    assert (result.promoted, result.champion, result.ledger_url) == (False, v1, None)
    assert result.reason == f"{v1} is already the champion."
    assert len(Ledger(store, v1.model).entries()) == 1


class CrashError(Exception):
    pass


def crash_at(monkeypatch, client, name: str):
    """Let the process die the first time it calls the client's method ``name``."""
    real = getattr(type(client), name)

    def crash(self, *args, **kwargs):
        monkeypatch.setattr(type(client), name, real)
        raise CrashError

    monkeypatch.setattr(type(client), name, crash)


@pytest.mark.parametrize("where", ["set_registered_model_alias", "set_model_version_tag"])
def test_a_crashed_promotion_is_completed_by_its_retry_with_one_entry(where, client, store, versions, monkeypatch):
    v1, v2, _ = versions
    do(store, verdict(v1, None), "a")
    crash_at(monkeypatch, client, where)
    with pytest.raises(CrashError):
        do(store, verdict(v2, v1), "b")
    result = do(store, verdict(v2, v1), "b")
    assert (result.promoted, result.champion, result.replaced) == (True, v2, v1)
    assert champion(client, v1.model) == v2
    assert [entry.id for entry in Ledger(store, v1.model).entries()] == ["a", "b"]


def test_a_crashed_promotion_without_a_retry_is_completed_by_the_next_decision(client, store, versions, monkeypatch):
    v1, v2, v3 = versions
    do(store, verdict(v1, None), "a")
    crash_at(monkeypatch, client, "set_registered_model_alias")
    with pytest.raises(CrashError):
        do(store, verdict(v2, v1), "b")
    assert champion(client, v1.model) == v1
    assert not do(store, verdict(v3, v1), "c").promoted
    assert champion(client, v1.model) == v2
    # A late retry of the crashed task does not undo newer decisions.
    do(store, verdict(v3, v2), "d")
    assert do(store, verdict(v2, v1), "b").promoted
    assert champion(client, v1.model) == v3


@pytest.mark.parametrize(("lost", "promoted"), [(4, True), (5, False)])
def test_a_lost_race_for_a_tag_is_repeated(lost, promoted, client, store, versions, monkeypatch):
    from mlflow.exceptions import MlflowException

    real, calls = type(client).set_registered_model_tag, []

    # The error of MLflow in such a race, which cannot be provoked reliably.
    def overtaken(self, *args):
        calls.append(args)
        if len(calls) <= lost:
            raise MlflowException(
                "BAD_REQUEST: (sqlite3.IntegrityError) UNIQUE constraint failed: registered_model_tags.key"
            )
        return real(self, *args)

    monkeypatch.setattr(type(client), "set_registered_model_tag", overtaken)
    v1, _, _ = versions
    if not promoted:
        with pytest.raises(RegistryError, match="UNIQUE constraint failed"):
            do(store, verdict(v1, None), "a")
        return
    assert do(store, verdict(v1, None), "a").promoted
    assert champion(client, v1.model) == v1
    assert len(Ledger(store, v1.model).entries()) == 1


def test_an_alias_that_a_person_moved_is_respected(client, store, versions):
    v1, v2, v3 = versions
    do(store, verdict(v1, None), "a")
    client.set_registered_model_alias(v1.model, "champion", "2")
    result = do(store, verdict(v3, v1), "b")
    assert not result.promoted
    assert champion(client, v1.model) == v2
    assert do(store, verdict(v3, v2), "c").replaced == v2


def test_a_deleted_champion_does_not_prevent_the_next_promotion(client, store, versions):
    v1, v2, _ = versions
    do(store, verdict(v1, None), "a")
    client.delete_model_version(v1.model, "1")
    assert do(store, verdict(v2, None), "b").promoted
    assert champion(client, v1.model) == v2


def test_a_lost_ledger_does_not_prevent_a_promotion(client, store, versions, tmp_path):
    v1, v2, _ = versions
    do(store, verdict(v1, None), "a")
    client.set_registered_model_alias(v1.model, "champion", "2")
    fresh = ArtifactStore(f"file://{tmp_path}/fresh")
    assert do(fresh, verdict(v1, v2), "a").promoted
    assert champion(client, v1.model) == v1


def test_repeated_rollbacks_go_back_one_champion_at_a_time(client, store, versions):
    v1, v2, v3 = versions
    for key, found in (("a", verdict(v1, None)), ("b", verdict(v2, v1)), ("c", verdict(v3, v2))):
        do(store, found, key)
    result = back(store, v1.model, "d")
    assert (result.rolled_back, result.champion, result.replaced) == (True, v2, v3)
    assert result.summary.startswith(f"Rolled {v1.model} back from v3 to v2: It was wrong about snow.")
    assert champion(client, v1.model) == v2
    # A retry of the same task does not roll back twice.
    assert back(store, v1.model, "d").champion == v2
    assert champion(client, v1.model) == v2
    assert back(store, v1.model, "e").champion == v1
    assert champion(client, v1.model) == v1
    with pytest.raises(RegistryError, match=r" v1 .*`to_version`.*\(v2, v3\)"):
        back(store, v1.model, "f")
    # Any former champion is a valid target, even one that was promoted later than the current champion.
    assert back(store, v1.model, "g", to_version=3).champion == v3
    entry = Ledger(store, v1.model).entries()[-1]
    assert (entry.decision, entry.replaced, entry.reason) == ("rolled_back", v1, "It was wrong about snow.")


def test_a_crashed_rollback_is_completed_by_its_retry(client, store, versions, monkeypatch):
    v1, v2, _ = versions
    do(store, verdict(v1, None), "a")
    do(store, verdict(v2, v1), "b")
    crash_at(monkeypatch, client, "set_registered_model_alias")
    with pytest.raises(CrashError):
        back(store, v1.model, "c")
    assert back(store, v1.model, "c").champion == v1
    assert champion(client, v1.model) == v1
    assert len(Ledger(store, v1.model).entries()) == 3


def test_invalid_rollbacks_are_refused(client, store, versions):
    v1, v2, _ = versions
    with pytest.raises(RegistryError, match="has no champion, so it cannot be rolled back"):
        back(store, v1.model, "a")
    do(store, verdict(v1, None), "b")
    with pytest.raises(RegistryError, match=rf"{v1.model} v3 was never champion, .*former champions: v1\)"):
        back(store, v1.model, "c", to_version=3)
    assert not back(store, v1.model, "d", to_version=1).rolled_back
    do(store, verdict(v2, v1), "e")
    client.delete_model_version(v1.model, "1")
    with pytest.raises(RegistryError, match="v1 is not in the MLflow registry"):
        back(store, v1.model, "f")
    assert champion(client, v1.model) == v2


def test_a_verdict_about_another_model_is_refused(versions):
    v1, *_ = versions
    with pytest.raises(SpecError, match=f"the verdict is for the model '{v1.model}', but `model` is 'other'"):
        parse(PromoteSpec, {"verdict": verdict(v1, None).model_dump(), "model": "other"}, "Task 'promote'")


DAG = """
from airflow.sdk import DAG, task
from airflow_mlops.operators import EvaluateOperator, PromoteOperator, RollbackOperator

with DAG("judge_{model}", schedule=None, default_args={{"model": "{model}"}}):
    @task
    def train(candidate):
        return {{"candidate": candidate, "summary": "Trained."}}

    fits = train.expand(candidate={candidates})
    evaluate = EvaluateOperator(task_id="evaluate", candidates=fits, gates="gates.yaml")
    promote = PromoteOperator(task_id="promote", verdict=evaluate.output)
    {more}
"""


@pytest.fixture
def registered(client, airflow_db, tmp_path):
    """A weak and a good candidate, trained on a set in Airflow's artifact store."""
    import os

    store = ArtifactStore(os.environ["AIRFLOW__MLOPS__ARTIFACTS"])
    model = f"delays_{uuid.uuid4().hex[:8]}"
    dataset = training_set(store)
    weights = ((1, 2), (2, 0))
    return [register(client, tmp_path / str(w), dataset, w, model=model) for w in weights]


@pytest.fixture
def gates_file():
    from tests.integration.conftest import BUNDLE

    file = BUNDLE / "gates.yaml"

    def write(text: str) -> None:
        file.write_text(text)

    yield write
    file.unlink(missing_ok=True)


GATES = "- {metric: roc_auc, min: 0.6}\n- {metric: roc_auc, better_than_champion_by: 0.0}\n"


def test_a_dag_evaluates_mapped_candidates_promotes_the_winner_and_emits_an_asset_event(
    registered, gates_file, run_dag, capfd
):
    gates_file(GATES)
    weak, good = registered
    source = DAG.format(model=good.model, candidates=[item.model_dump() for item in registered], more="")
    first = run_dag(source)
    assert set(first.states().values()) == {"success"}, first.states()
    verdict = first.xcom("evaluate")["verdict"]
    assert [len(item["gates"]) for item in verdict["candidates"]] == [3, 3]
    assert first.xcom("promote")["promoted"]
    ((uri, extra),) = first.asset_events()
    assert uri == f"mlops://{good.model}/champion"
    assert (extra["version"], extra["run_id"], extra["replaced"]) == (good.version, good.run_id, None)
    assert extra["dataset_id"] == verdict["dataset_id"]
    assert extra["metrics"]["roc_auc"] > 0.8
    assert f"Promoted {good} as its first champion" in capfd.readouterr().out
    # The weak candidate does not beat the champion: there is no event and no failure.
    alone = DAG.format(model=good.model, candidates=[weak.model_dump()], more="")
    second = run_dag(alone)
    assert set(second.states().values()) == {"success"}
    assert not second.xcom("promote")["promoted"]
    assert second.asset_events() == []
    assert "Nothing was promoted" in capfd.readouterr().out


def test_a_rollback_emits_an_asset_event(registered, gates_file, run_dag):
    gates_file("- {metric: roc_auc, min: 0.0}\n")
    # The useless candidate cannot be used here, since it does not beat the baseline.
    weak, good = registered
    run_dag(DAG.format(model=good.model, candidates=[weak.model_dump()], more=""))
    more = (
        'promote >> RollbackOperator(task_id="rollback", reason="Snow.", to_version="{{ dag_run.conf.get(\'to\') }}")'
    )
    run = run_dag(DAG.format(model=good.model, candidates=[good.model_dump()], more=more))
    assert set(run.states().values()) == {"success"}, run.states()
    assert run.xcom("rollback")["champion"] == weak.model_dump()
    assert [(uri, extra["version"], extra["reason"]) for uri, extra in run.asset_events()][-1] == (
        f"mlops://{good.model}/champion", weak.version, "Snow.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {metric: auc, min: 0.6}\n", "'auc' is not a metric: choose one of roc_auc"),
        ("- {metric: [\n", "not valid YAML"),
        (None, "file 'gates.yaml' does not exist"),
    ],
)
def test_invalid_gates_in_a_file_are_refused_when_the_dag_is_parsed(text, message, airflow_db, gates_file):
    from airflow.dag_processing.dagbag import DagBag

    from tests.integration.conftest import BUNDLE

    if text is not None:
        gates_file(text)
    file = BUNDLE / f"wrong_{uuid.uuid4().hex}.py"
    file.write_text(DAG.format(model="delays", candidates=[], more=""))
    try:
        bag = DagBag(file, bundle_path=BUNDLE, bundle_name="dags-folder")
        assert message in " ".join(bag.import_errors.values())
    finally:
        file.unlink()


def test_invalid_gates_are_refused_when_the_operator_is_created():
    from airflow_mlops.operators import EvaluateOperator

    with pytest.raises(SpecError, match=r"Gate 1 .* must have exactly one of the keys"):
        EvaluateOperator(task_id="evaluate", candidates=[], gates=[{"metric": "roc_auc"}])
    with pytest.raises(SpecError, match=r"'rocauc' is not a metric: .* \(did you mean 'roc_auc'\?\)"):
        EvaluateOperator(task_id="evaluate", candidates=[], metric="rocauc")
    # A template is validated after it is rendered.
    EvaluateOperator(task_id="later", candidates=[], gates=[{"metric": "roc_auc", "min": "{{ params.min }}"}])


def test_the_model_name_may_come_from_default_args():
    from airflow.sdk import DAG

    from airflow_mlops.operators import EvaluateOperator, PromoteOperator, RollbackOperator

    with DAG("delays", schedule=None, default_args={"model": "flight_delays"}):
        tasks = [
            EvaluateOperator(task_id="evaluate", candidates=[]),
            PromoteOperator(task_id="promote", verdict={}),
            RollbackOperator(task_id="rollback", reason="Snow."),
        ]
    assert [item.model for item in tasks] == ["flight_delays"] * 3
    assert [outlet.name for outlet in tasks[1].outlets] == ["mlops-flight_delays-champion"]
