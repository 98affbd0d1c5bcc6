"""The commands of ``airflow mlops`` in a real Airflow: output, effects and errors."""

from __future__ import annotations

import getpass
import json
import os
import time
import uuid

import pytest

from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.approval import ApprovalRecord
from airflow_mlops.registry.records.entry import Decision
from airflow_mlops.registry.requests import answer
from airflow_mlops.registry.versions import champion
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from tests.integration.stages.test_promote import verdict
from tests.support.forks import Forks


@pytest.fixture
def airflow(airflow_db, store):
    """``airflow("ledger", "delays")`` runs ``airflow mlops ledger delays`` in this process with the test's store."""
    from airflow.cli.cli_parser import get_parser

    def run(*words, store_url=store.url):
        args = get_parser().parse_args(["mlops", *map(str, words), "--store", store_url])
        args.func(args)

    return run


@pytest.fixture
def model(client):
    name = f"delays_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    return name


@pytest.fixture
def versions(client, model):
    run = client.create_run("0")
    made = [client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id) for _ in range(3)]
    return [ModelVersionRef(model=model, version=int(item.version), run_id=run.info.run_id) for item in made]


@pytest.fixture
def promoted(store, versions):
    """v1 and then v2 were promoted, and v3 was refused."""
    v1, v2, v3 = versions
    who = Provenance(dag_id="delays_train", run_id="manual__1", task_id="promote", user="ada")
    for key, found in (("a", verdict(v1, None)), ("b", verdict(v2, v1)), ("c", verdict(None, v2, v3))):
        promote.run(PromoteSpec(verdict=found), StepContext(store=store, key=key, provenance=who))
    return versions


# Runs the command ``airflow`` with the words in ``sys.argv``, and prints the modules that it has imported.
COMMAND = """
sys.argv[0] = "airflow"
try: main()
except SystemExit as ended: print("STATUS", ended.code)
print("LOADED", *sorted(sys.modules))
"""


@pytest.fixture(scope="module")
def command(airflow_db):
    """``command("mlops", "--help")`` runs ``airflow mlops --help`` in a process of its own."""
    with Forks("from airflow.__main__ import main") as forks:
        yield lambda *words: forks.run(COMMAND, *words)


def test_airflows_help_lists_the_commands_without_importing_heavy_libraries(command):
    for words, expected in ((["--help"], "mlops"), (["mlops", "--help"], "reproduce")):
        text, _, loaded = command(*words).stdout.partition("LOADED")
        assert expected in text
        heavy = {"mlflow", "pandas", "numpy", "pyarrow", "sklearn", "torch", "feast", "onnx", "airflow_mlops.registry"}
        assert heavy & set(loaded.split()) == set()
        assert "airflow_mlops.cli.definition" in loaded


@pytest.mark.parametrize(
    "words",
    [
        ["ledger", "nothing"],
        ["ledger", "nothing", "--verify"],
        ["rollback", "nothing", "--reason", "Snow."],
        ["purge", "nothing", "--older-than", "soon"],
        ["predictions", "nothing", "--window", "soon"],
    ],
)
def test_an_error_is_answered_without_importing_heavy_libraries(words, tmp_path, command):
    done = command("mlops", *words, "--store", f"file://{tmp_path}")
    text, _, loaded = done.stdout.partition("LOADED")
    assert "STATUS" in text, done.stderr
    assert "nothing" in text or "soon" in text
    assert {"mlflow", "pandas", "sklearn", "torch", "feast", "onnx", "scipy", "duckdb"} & set(loaded.split()) == set()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("purge", "nothing", "--older-than", "90D"), "'nothing_predictions'"),
        (("purge", "nothing", "--older-than", "90D", "--predictions", "other"), "'other'"),
        (("purge", "nothing", "--older-than", "soon"), "--older-than: 'soon'"),
        (("purge", "no thing", "--older-than", "90D"), "MODEL: 'no thing'"),
        (("purge", "nothing", "--older-than", "90D", "--outcomes", "a/b"), "--outcomes: 'a/b'"),
        (("predictions", "nothing"), "'nothing_predictions'"),
    ],
)
def test_unknown_names_are_errors_in_terms_of_the_command(words, problem, airflow):
    with pytest.raises(SystemExit) as ended:
        airflow(*words)
    assert problem in str(ended.value.code)
    assert "`" not in str(ended.value.code)


@pytest.mark.parametrize("age", ["soon", "23h", "0D", "7", "99999999999D", "3000000D"])
def test_leftovers_of_running_tasks_are_not_deleted(age, airflow, store):
    store.write_bytes("datasets/a/files/1.parquet", b"")
    with pytest.raises(SystemExit) as ended:
        airflow("clean", "--older-than", age)
    assert f"--older-than: {age!r}" in str(ended.value.code)
    assert store.exists("datasets/a/files/1.parquet")


def test_old_leftovers_are_listed_and_deleted(airflow, store, capsys):
    days = {"datasets/a/files/1.parquet": 9, "reports/.a.json.0123456789abcdef0123456789abcdef.tmp": 8, "reports/a": 9}
    days |= {"datasets/a/files/2.parquet": 6, ".0123456789abcdef0123456789abcdef.tmp": 2}
    for key, age in days.items():
        store.write_bytes(key, b"123")
        os.utime(store.local_path(key), (time.time() - age * 86_400,) * 2)
    airflow("clean", "--dry-run", "--output", "json")
    out, err = capsys.readouterr()
    old = {"datasets/a/files/1.parquet", "reports/.a.json.0123456789abcdef0123456789abcdef.tmp"}
    assert {row["key"] for row in json.loads(out)} == old
    assert "2 files" in err
    assert set(store.find("")) == set(days)
    airflow("clean")
    assert "1.parquet" in capsys.readouterr().out
    assert set(store.find("")) == set(days) - old
    airflow("clean", "--older-than", "1D")
    assert store.find("") == ["reports/a"]
    capsys.readouterr()
    airflow("clean", "--output", "json")
    assert json.loads(capsys.readouterr().out) == []


def test_a_store_that_cannot_be_reached_is_an_error_without_a_traceback(airflow):
    with pytest.raises(SystemExit) as ended:
        airflow("ledger", "nothing", store_url="ftp://store.invalid/mlops")
    assert "ftp://store.invalid/mlops" in str(ended.value.code)


def test_the_ledger_is_printed_as_a_table_and_as_json(airflow, promoted, capsys):
    model = promoted[0].model
    airflow("ledger", model)
    table = capsys.readouterr().out
    for text in ("promoted", "refused", "ada", "delays_train manual__1"):
        assert text in table
    airflow("ledger", model, "--output", "json")
    rows = json.loads(capsys.readouterr().out)
    assert [(row["decision"], row["version"], row["replaced"]) for row in rows] == [
        ("promoted", "1", ""), ("promoted", "2", "1"), ("refused", "3", ""),
    ]  # fmt: skip
    assert {"entry", "time", "user", "run", "reason"} <= set(rows[0])


def test_the_ledger_shows_requests_for_retraining_and_the_decisions_on_them(airflow, promoted, store, capsys):
    _, v2, v3 = promoted
    fields = {"triggers": ["age"], "reason": "It is old.", "window": "2013-04", "created": "2013-05-05"}
    provenance = Provenance(requests=[Request(id=f"{v2.model}/2013-04", model=v2.model, **fields)])
    request = Decision(decision="requested", replaced=v2, champion=v2, provenance=provenance, reason="It is old.")
    Ledger(store, v2.model).record("monitoring", lambda entries: request)
    verdict_on_it = PromoteSpec(verdict=verdict(None, v2, v3))
    promote.run(verdict_on_it, StepContext(store=store, key="d", provenance=provenance))
    airflow("ledger", v2.model, "--output", "json")
    rows = json.loads(capsys.readouterr().out)
    assert [(row["decision"], row["version"], row["requested"]) for row in rows[2:]] == [
        ("refused", "3", ""), ("requested", "", "2013-04"), ("refused", "3", "2013-04"),
    ]  # fmt: skip
    airflow("ledger", v2.model, "--verify")
    assert "5 entries" in capsys.readouterr().out
    airflow("rollback", v2.model, "--reason", "Snow.")
    assert Ledger(store, v2.model).entries()[-1].champion.version == 1


def test_the_requests_for_retraining_are_shown_with_their_states(airflow, promoted, store, capsys):
    _, v2, v3 = promoted
    made = [
        Request(id=f"{v2.model}/{month}", model=v2.model, triggers=["age"], reason="It is old.", window=month,
                created="2013-08-05")
        for month in ("2013-04", "2013-05", "2013-06")
    ]  # fmt: skip
    for request in made:
        entry = Decision(
            decision="requested",
            replaced=v2,
            champion=v2,
            provenance=Provenance(requests=[request]),
            reason="It is old.",
        )
        Ledger(store, v2.model).record(request.id, lambda entries, entry=entry: entry)
    answer(store, Provenance(dag_id="train", run_id="r1", task_id="build", requests=made[:1]))
    promote.run(
        PromoteSpec(verdict=verdict(None, v2, v3)),
        StepContext(store=store, key="d", provenance=Provenance(requests=made[1:2])),
    )
    # No DAG is scheduled on the asset.
    with pytest.raises(SystemExit) as ended:
        airflow("ledger", v2.model, "--requests", "--output", "json")
    assert ended.value.code == 1
    output = capsys.readouterr()
    rows = json.loads(output.out)
    assert [(row["window"], row["state"], row["training"]) for row in rows] == [
        ("2013-04", "answered", "train r1"), ("2013-05", "answered", ""), ("2013-06", "open", ""),
    ]  # fmt: skip
    assert f"mlops://{v2.model}/retrain" in output.err
    promote.run(PromoteSpec(verdict=verdict(v3, v2)), StepContext(store=store, key="e"))
    with pytest.raises(SystemExit):
        airflow("ledger", v2.model, "--requests", "--output", "json")
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["answered", "answered", "moot"]


def test_a_complete_ledger_is_verified(airflow, promoted, capsys):
    airflow("ledger", promoted[0].model, "--verify")
    output = capsys.readouterr().out
    assert promoted[0].model in output
    assert "3 entries" in output


@pytest.mark.parametrize("tampering", ["change", "remove", "cut off", "change the last move"])
def test_a_tampered_ledger_is_detected_and_the_entry_is_named(tampering, airflow, promoted, store):
    model = promoted[0].model
    first, second, third = (f"ledger/{model}/0000000{number}.json" for number in (1, 2, 3))
    if tampering == "change":
        store.write_json(first, {**store.read_json(first), "reason": "It is much better."})
        number, place = 1, first
    elif tampering == "remove":
        store.delete(second)
        number, place = 2, second
    elif tampering == "cut off":
        store.delete(second)
        store.delete(third)
        number, place = 2, second
    else:
        store.delete(third)
        store.write_json(second, {**store.read_json(second), "reason": "It is much better."})
        number, place = 2, second
    with pytest.raises(SystemExit) as ended:
        airflow("ledger", model, "--verify")
    message = str(ended.value.code)
    assert repr(model) in message
    assert f"entry {number} " in message
    assert store.url_of(place) in message
    assert "\n" not in message


def test_without_mlflow_the_chain_is_verified_with_a_warning(airflow, promoted, capsys, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWAY", json.dumps({"conn_type": "mlflow", "host": "http://127.0.0.1:1"}))
    airflow("ledger", promoted[0].model, "--verify", "--mlflow-conn-id", "away")
    output = capsys.readouterr().out
    assert "3 entries" in output
    assert "not compared with MLflow" in output


def test_a_ledger_in_the_old_format_is_read_and_verified(airflow, store, capsys, model):
    """Entries written before the fields for origins and approvals existed."""
    from hashlib import sha256

    ref = {"model": model, "version": 1, "run_id": "r"}
    old = {
        "decision": "promoted", "replaced": None, "champion": ref, "candidates": [], "dataset_name": "d",
        "dataset_id": "d" * 64, "code": {"airflow_mlops": "0.1.0"},
        "provenance": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1,
                       "partition_key": None, "user": None},
        "reason": "It is better.", "approval": None, "seq": 1, "id": "a", "model": model,
        "time": "2026-01-01T00:00:00Z", "previous": "",
    }  # fmt: skip
    store.write_json(f"ledger/{model}/00000001.json", old)
    digest = sha256(store.read_bytes(f"ledger/{model}/00000001.json")).hexdigest()
    store.write_json(f"ledger/{model}/00000002.json", {**old, "seq": 2, "id": "b", "previous": digest})
    airflow("ledger", model, "--verify")
    assert "2 entries" in capsys.readouterr().out
    approval = ApprovalRecord(by="grace", at="2026-02-01T00:00:00Z", decision="approved")
    decision = Decision(decision="refused", replaced=None, champion=None, reason="No.", approval=approval)
    Ledger(store, model).record("c", lambda entries: decision)
    assert Ledger(store, model).entries()[-1].approval == approval


def test_a_rollback_moves_the_alias_and_records_the_user(airflow, promoted, client, store, capsys):
    v1, v2, _ = promoted
    airflow("rollback", v1.model, "--reason", "Snow.")
    output = capsys.readouterr().out
    assert v1.model in output
    assert "v2 to v1: Snow." in output
    assert champion(client, v1.model) == v1
    entry = Ledger(store, v1.model).entries()[-1]
    assert (entry.decision, entry.champion, entry.replaced, entry.reason) == ("rolled_back", v1, v2, "Snow.")
    assert entry.provenance == Provenance(user=getpass.getuser())
    airflow("rollback", v1.model, "--to-version", 2, "--reason", "It was not the snow.")
    assert champion(client, v1.model) == v2


def test_a_rollback_sends_the_asset_event(airflow, promoted, run_dag, capsys):
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    model = promoted[0].model
    uri = f"mlops://{model}/champion"
    with create_session() as session:
        session.add(AssetModel(name=uri, uri=uri, group="asset"))
    airflow("rollback", model, "--reason", "Snow.")
    with create_session() as session:
        (event,) = session.scalars(
            select(AssetEvent).join(AssetModel, AssetEvent.asset_id == AssetModel.id).where(AssetModel.uri == uri)
        ).all()
        extra = event.extra
    assert (extra["version"], extra["replaced"], extra["reason"]) == (1, 2, "Snow.")


def test_an_interrupted_rollback_is_completed_and_not_repeated(airflow, versions, client, store, monkeypatch):
    v1, v2, v3 = versions
    for key, found in (("a", verdict(v1, None)), ("b", verdict(v2, v1)), ("c", verdict(v3, v2))):
        promote.run(PromoteSpec(verdict=found), StepContext(store=store, key=key))
    real = type(client).set_registered_model_alias

    def interrupt(*args):
        monkeypatch.setattr(type(client), "set_registered_model_alias", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(client), "set_registered_model_alias", interrupt)
    with pytest.raises(KeyboardInterrupt):
        airflow("rollback", v1.model, "--reason", "Snow.")
    assert champion(client, v1.model) == v3
    airflow("rollback", v1.model, "--reason", "Snow.")
    assert champion(client, v1.model) == v2
    assert len(Ledger(store, v1.model).entries()) == 4
    airflow("rollback", v1.model, "--reason", "Snow.")
    assert champion(client, v1.model) == v1


def test_errors_are_printed_on_one_line(airflow, promoted, client, monkeypatch, tmp_path):
    model = promoted[0].model
    monkeypatch.setenv("AIRFLOW_CONN_AWAY", json.dumps({"conn_type": "mlflow", "host": "http://127.0.0.1:1"}))
    for words, problem in (
        (("ledger", "nothing"), "'nothing'"),
        (("rollback", model, "--to-version", 3, "--reason", "x"), "v3"),
        (("rollback", model, "--reason", ""), "--reason: "),
        (("rollback", "nothing", "--reason", "x"), "'nothing'"),
        (("ledger", "nothing", "--verify"), "'nothing'"),
        (("rollback", model, "--reason", "x", "--mlflow-conn-id", "away"), "127.0.0.1:1"),
        (("rollback", model, "--reason", "x", "--mlflow-conn-id", "nowhere"), "'nowhere'"),
        (("reproduce", model, 9), f"{model} v9"),
        (("reproduce", model, 1), f"{model} v1"),
    ):
        with pytest.raises(SystemExit) as ended:
            airflow(*words)
        assert problem in str(ended.value.code)
        assert "\n" not in str(ended.value.code)


def test_serve_starts_the_server_with_the_same_settings_and_its_connections(airflow, store, monkeypatch):
    from airflow_mlops.cli import models
    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.serving.__main__ import settings

    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "http://mlflow:5000"}))
    monkeypatch.setenv("AIRFLOW_CONN_KEYS", json.dumps({"conn_type": "generic", "password": "0123456789abcdef"}))
    started = []
    monkeypatch.setattr(models.os, "execve", lambda *call: started.append(call))
    airflow(
        "serve", "late", "--port", 8123, "--window", "hour", "--hash-column", "customer id", "--hash-column=-x",
        "--drop-column", "city", "--hash-conn-id", "keys", "--sample", "0.25", "--spool", "/var/spool/late",
        "--feast-repo", "/features", "--shadow", "challenger", "--canary", "7", "--canary-share", "0.0", "--canary-key", "customer id",
    )  # fmt: skip
    ((program, command, environment),) = started
    assert command[:3] == [program, "-m", "airflow_mlops.serving"]
    spec = settings(command[3:])
    assert (spec.model, spec.store, spec.port, spec.window) == ("late", store.url, 8123, "hour")
    assert (spec.hash_columns, spec.drop_columns, spec.hash_conn_id) == (["customer id", "-x"], ["city"], "keys")
    assert (spec.sample, spec.spool, spec.log) == (0.25, "/var/spool/late", True)
    assert spec.feast_repo == "/features"
    assert (spec.shadow, spec.canary, spec.canary_share, spec.canary_key) == ("challenger", "7", 0.0, "customer id")
    for name in ("AIRFLOW_CONN_MLFLOW_DEFAULT", "AIRFLOW_CONN_KEYS"):
        monkeypatch.setenv(name, environment[name])
    assert from_environment("keys").secret == "0123456789abcdef"
    airflow("serve", "late")
    plain = settings(started[1][1][3:])
    assert (plain.sample, plain.shadow, plain.canary) == (1.0, None, None)
