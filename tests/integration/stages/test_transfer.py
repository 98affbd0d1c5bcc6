"""A version moves from one real MLflow server to another with its evidence: unchanged, once, and without becoming champion."""

from __future__ import annotations

import getpass
import json
import os
import signal
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.errors import ModelCorruptError, RegistryError, SpecError
from airflow_mlops.core.references import DatasetRef, MLflowTarget, ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import contracts
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry.aliases import verify
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import file_hashes, verify_champion
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import champion, download, download_into
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.transfer import step as transfer
from airflow_mlops.stages.transfer.spec import TransferSpec
from tests.integration.conftest import run_mlflow
from tests.integration.stages.test_promote_crashes import in_process
from tests.support.candidates import from_elsewhere, register, training_rows, training_set

# The files are copied between two MLflow servers.
pytestmark = pytest.mark.served_files

GATES = [{"metric": "accuracy", "min": 0.6}, {"champion": "ignore"}]
PRODUCTION = MLflowTarget(conn_id="mlflow_production")


@dataclass
class Development:
    """A registry with a promoted version, in a store of its own."""

    store: ArtifactStore
    dataset: DatasetRef
    champion: ModelVersionRef
    secret: str = "hunter2-of-development"

    @property
    def client(self):
        return connect(MLflowTarget(), from_environment)


@dataclass
class Production:
    store: ArtifactStore

    @property
    def client(self):
        return connect(PRODUCTION, from_environment)


@pytest.fixture(scope="module")
def servers(mlflow_server, tmp_path_factory):
    with (
        run_mlflow(tmp_path_factory.mktemp("production"), "127.0.0.1") as production,
        pytest.MonkeyPatch.context() as patch,
    ):
        login = {"conn_type": "mlflow", "login": "ada", "password": Development.secret}
        patch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({**login, "host": mlflow_server}))
        store = f"file://{tmp_path_factory.mktemp('production-store')}"
        target = {"conn_type": "mlflow", "host": production, "extra": {"artifacts": store}}
        patch.setenv("AIRFLOW_CONN_MLFLOW_PRODUCTION", json.dumps(target))
        yield ArtifactStore(store)


def context(store):
    return StepContext(store=store, key=f"results/{uuid.uuid4().hex}.json")


def evaluated(store, version, gates=GATES):
    return evaluate.run(EvaluateSpec(candidates=[version], gates=gates), context(store)).verdict


@pytest.fixture(scope="module")
def development(servers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("development")
    store = ArtifactStore(f"file://{folder}/store")
    dataset = training_set(store)
    client = connect(MLflowTarget(), from_environment)
    made = register(client, folder / "v", dataset, (2, 0), model=f"delays_{uuid.uuid4().hex[:8]}")
    client.log_param(made.run_id, "url", f"https://ada:{Development.secret}@rows.example/x")
    client.log_metric(made.run_id, "accuracy", 0.75)
    client.set_tag(made.run_id, "mlops.retrain.request", "of development")
    promote.run(PromoteSpec(verdict=evaluated(store, made)), context(store))
    return Development(store, dataset, made)


@pytest.fixture
def production(servers):
    return Production(servers)


@pytest.fixture
def model():
    return f"delays_{uuid.uuid4().hex[:8]}"


def copy(development, model, **fields):
    spec = TransferSpec(
        model=development.champion.model, target_conn_id=PRODUCTION.conn_id, target_model=model, **fields
    )
    return transfer.run(spec, context(development.store))


def versions(client, model):
    return sorted(int(item.version) for item in client.search_model_versions(f"name = '{model}'"))


def files_of(client, ref):
    with tempfile.TemporaryDirectory() as folder:
        download_into(client, ref, Path(folder) / "m")
        return file_hashes(Path(folder) / "m")


def test_a_version_is_copied_unchanged_with_its_evidence_and_is_not_champion(development, production, model):
    source = development.champion
    result = copy(development, model)
    (promoted,) = Ledger(development.store, source.model).entries()
    client = production.client
    assert (result.transferred, result.candidate.model, result.candidate.version) == (True, model, 1)
    assert champion(client, model) is None
    assert files_of(client, result.candidate) == promoted.files
    assert OnnxModel.load(download(client, result.candidate)).contract.dataset_id == development.dataset.id

    tags = client.get_model_version(model, "1").tags
    run = client.get_run(result.candidate.run_id)
    origin = {
        "mlops.source_model": source.model,
        "mlops.source_version": "1",
        "mlops.source_run": source.run_id,
    }
    assert origin.items() <= tags.items()
    assert origin.items() <= run.data.tags.items()
    assert tags["mlops.source_registry"].startswith("http://127.0.0.1:")
    assert (run.info.status, run.data.metrics["accuracy"], run.data.tags["mlops.code"]) == ("FINISHED", 0.75, "abc123")
    assert "mlops.retrain.request" not in run.data.tags
    names = {item.path for item in client.list_artifacts(run.info.run_id, "evaluation")}
    assert {"evaluation/model_card.html", "evaluation/model_card.md", "evaluation/verdict.json"} <= names

    (entry,) = verify(client, Ledger(production.store, model))
    assert (entry.decision, entry.champion, entry.received.version) == ("received", None, result.candidate)
    assert (entry.received.source, entry.received.evaluation) == (source, promoted.candidates[0])
    assert (entry.received.files, entry.received.card) == (promoted.files, promoted.card)
    assert entry.received.ledger_sha256 == promoted.sha256

    kept = [run.to_dictionary(), tags, entry.model_dump(mode="json"), result.model_dump()]
    assert development.secret not in json.dumps(kept, default=str)
    assert run.data.params["url"] == "https://rows.example/x"


def test_a_version_is_copied_once(development, production, model):
    first = copy(development, model)
    again = copy(development, model, version="1")
    assert (again.transferred, again.candidate, again.ledger_url) == (False, first.candidate, first.ledger_url)
    assert versions(production.client, model) == [1]
    assert len(Ledger(production.store, model).entries()) == 1
    # A version that a person has deleted is copied again, under a new number.
    production.client.delete_model_version(model, "1")
    assert copy(development, model).candidate.version == 2
    assert [item.received.version.version for item in Ledger(production.store, model).entries()] == [1, 2]


# In the order in which a transfer writes: the claim of the run, the run, the model, the version, its description, the end of the
# run, the ledger entry.
WRITES = (
    (ArtifactStore, "create_exclusive"),
    (MlflowClient, "log_artifacts"),
    (MlflowClient, "log_model_artifacts"),
    (MlflowClient, "create_model_version"),
    (MlflowClient, "update_model_version"),
    (MlflowClient, "set_terminated"),
    (Ledger, "record"),
)


@pytest.mark.parametrize(("kind", "name"), WRITES, ids=[name for _, name in WRITES])
def test_a_killed_transfer_is_completed_by_its_retry(kind, name, development, production, model):
    def doomed() -> None:
        setattr(kind, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        copy(development, model)

    assert in_process(doomed) == -signal.SIGKILL
    result = copy(development, model)
    client = production.client
    assert versions(client, model) == [result.candidate.version]
    (entry,) = verify(client, Ledger(production.store, model))
    assert (entry.received.version, champion(client, model)) == (result.candidate, None)
    experiment = client.get_experiment_by_name(model).experiment_id
    assert [run.info.run_id for run in client.search_runs([experiment])] == [result.candidate.run_id]
    assert len(client.search_logged_models([experiment])) == 1
    assert client.get_run(result.candidate.run_id).info.status == "FINISHED"
    described = client.get_model_version(model, str(result.candidate.version)).description
    assert described == development.client.get_model_version(development.champion.model, "1").description != ""


def test_a_changed_file_is_refused(development, production, model):
    client, ref = development.client, development.champion
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        original = Path(client.download_artifacts(ref.run_id, "model/model.onnx", folder)).read_bytes()
        try:
            file.write_bytes(original + b"x")
            client.log_artifact(ref.run_id, str(file), "model")
            with pytest.raises(ModelCorruptError, match=r"its file model\.onnx was changed\."):
                copy(development, model)
        finally:
            file.write_bytes(original)
            development.client.log_artifact(ref.run_id, str(file), "model")
    assert versions(production.client, model) == []
    assert Ledger(production.store, model).entries() == []


def test_a_copy_with_other_files_is_refused_and_can_be_repeated(development, production, model, monkeypatch):
    real = transfer.receive

    def damaged(client, store, name, key, package, files, tags):
        file = package.model / "model.onnx"
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        real(client, store, name, key, package, files, tags)

    monkeypatch.setattr(transfer, "receive", damaged)
    with pytest.raises(ModelCorruptError, match=r"differ from those of the source: its file model\.onnx was changed"):
        copy(development, model)
    assert Ledger(production.store, model).entries() == []
    monkeypatch.undo()
    production.client.delete_model_version(model, "1")
    assert copy(development, model).candidate.version == 2


@pytest.fixture
def candidate(development, tmp_path):
    """A version that was not promoted, in a model of its own."""

    def candidate(weights=(2, 0)):
        name = f"delays_{uuid.uuid4().hex[:8]}"
        return register(development.client, tmp_path / name, development.dataset, weights, model=name)

    return candidate


def send(development, ref, **fields):
    spec = TransferSpec(model=ref.model, version=ref.version, **{"target_conn_id": PRODUCTION.conn_id, **fields})
    return transfer.run(spec, context(development.store))


def test_a_version_that_passed_needs_no_promotion_and_one_that_failed_or_was_not_evaluated_is_refused(
    development, production, candidate
):
    good, bad = candidate(), candidate((0, 0))
    with pytest.raises(RegistryError, match=f"{good} was not evaluated in its registry"):
        send(development, good)
    evaluated(development.store, good)
    assert not evaluated(development.store, bad).winner
    with pytest.raises(RegistryError, match=f"{bad} did not pass its evaluation: "):
        send(development, bad)
    received = send(development, good).candidate
    assert (received.model, champion(production.client, good.model)) == (good.model, None)
    # The evidence of the source is not sufficient for another transfer from the target.
    spec = TransferSpec(
        model=received.model, version=1, target_conn_id="mlflow_default", target_model="far", mlflow=PRODUCTION
    )
    with pytest.raises(RegistryError, match="was not evaluated in its registry"):
        transfer.run(spec, context(development.store))


def test_one_registered_model_or_one_ledger_for_two_registries_is_refused(
    development, production, tmp_path, monkeypatch
):
    ref, connections = development.champion, {}
    link = tmp_path / "link"
    link.symlink_to(development.store.local_path(""))
    for name, host, extra in (
        ("shared", production.client.tracking_uri, {}),
        ("linked", production.client.tracking_uri, {"artifacts": f"file://{link}"}),
        ("same", development.client.tracking_uri, {"artifacts": f"file://{tmp_path}/other"}),
        ("typo", production.client.tracking_uri, {"artifacts": 7}),
    ):
        connections[name] = json.dumps({"conn_type": "mlflow", "host": host, "extra": extra})
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", connections[name])
    for name, problem in (
        ("shared", "Both registries would share the ledger"),
        ("linked", "Both registries would share the ledger"),
        ("same", "are the same registered model"),
        ("typo", "The extra field 'artifacts' of connection 'typo' is not text"),
    ):
        with pytest.raises(SpecError, match=problem):
            send(development, ref, target_conn_id=name)
    # If the target model has another name, one artifact store is enough for both registries.
    other = f"production.{ref.model}"
    assert send(development, ref, target_conn_id="shared", target_model=other).candidate.model == other


def test_an_unknown_version_is_an_error(development, model):
    with pytest.raises(RegistryError, match="No version of .* has the alias 'challenger'"):
        copy(development, model, version="challenger")
    with pytest.raises(RegistryError, match="v99 is not in the MLflow registry"):
        copy(development, model, version=99)


def test_a_foreign_version_keeps_its_contract(development, production, model):
    client = development.client
    x, y = training_rows()
    foreign = from_elsewhere(
        f"foreign_{uuid.uuid4().hex[:8]}", mlflow.sklearn, LogisticRegression().fit(x, y), answer=y
    )
    spec = EvaluateSpec(candidates=[foreign], dataset=development.dataset, gates=GATES, allow_pyfunc=True)
    verdict = evaluate.run(spec, context(development.store)).verdict
    source = verdict.winner
    with pytest.raises(RegistryError, match="has no MLflow run and was never promoted"):
        send(development, source)
    promote.run(PromoteSpec(verdict=verdict), context(development.store))
    there = contracts.read(client, development.store, source)
    received = send(development, source, target_model=model).candidate
    assert contracts.read(production.client, production.store, received) == there
    assert there.elsewhere


def test_the_target_evaluates_and_promotes_a_copy_with_its_own_checks(development, production, model):
    version = copy(development, model).candidate
    dataset = training_set(production.store)
    spec = EvaluateSpec(candidates=[version], dataset=dataset, gates=GATES, mlflow=PRODUCTION)
    verdict = evaluate.run(spec, context(production.store)).verdict
    result = promote.run(PromoteSpec(verdict=verdict, mlflow=PRODUCTION), context(production.store))
    assert (result.promoted, champion(production.client, model)) == (True, version)
    received, promoted = verify(production.client, Ledger(production.store, model))
    assert promoted.files == received.received.files


@pytest.fixture
def airflow(airflow_db, production):
    """``airflow("promote", "delays", 1)`` runs ``airflow mlops promote delays 1 --to mlflow_production`` in this process."""
    from airflow.cli.cli_parser import get_parser

    def run(*words, to=PRODUCTION.conn_id):
        args = get_parser().parse_args(["mlops", *map(str, words), "--to", to, "--reason", "The tariff starts."])
        args.func(args)

    return run


def test_a_person_makes_a_copy_the_champion_that_they_expect_to_replace(
    airflow, development, production, model, capsys
):
    version, client = copy(development, model).candidate, production.client
    with pytest.raises(
        SystemExit, match="expected champion of .* is v7, but the model has no champion. .* set --replaces to none"
    ):
        airflow("promote", model, 1, "--replaces", 7)
    assert len(Ledger(production.store, model).entries()) == 1
    airflow("promote", model, 1, "--replaces", "none")
    assert f"Promoted {version} as its first champion: The tariff starts." in capsys.readouterr().out
    assert champion(client, model) == version
    received, promoted = entries = verify(client, Ledger(production.store, model))
    assert (promoted.decision, promoted.reason, promoted.replaced) == ("promoted", "The tariff starts.", None)
    assert (promoted.provenance.user, promoted.files) == (getpass.getuser(), received.received.files)
    assert promoted.candidates[0].metrics == received.received.evaluation.metrics
    assert (
        verify_champion(client, model, entries) == "The files of the champion v1 have not changed since the promotion."
    )
    # The command again changes nothing.
    airflow("promote", model, 1, "--replaces", "none")
    assert "is already the champion" in capsys.readouterr().out
    assert len(Ledger(production.store, model).entries()) == 2
    # The next environment takes this promotion as the evidence.
    spec = TransferSpec(model=model, target_conn_id="mlflow_default", target_model=f"next_{model}", mlflow=PRODUCTION)
    assert transfer.run(spec, context(development.store)).candidate.model == f"next_{model}"


def test_only_a_received_and_unchanged_version_is_promoted_by_a_person(airflow, development, production, model):
    ref = copy(development, model).candidate
    with pytest.raises(SystemExit, match="v2 was not received from another registry"):
        airflow("promote", model, 2, "--replaces", "none")
    with pytest.raises(SystemExit, match="--replaces: "):
        airflow("promote", model, 1, "--replaces", "the old one")
    client = production.client
    client.set_model_version_tag(model, "1", "mlops.contract", "0" * 64)
    with pytest.raises(SystemExit, match="differ from those that were received: its contract was changed"):
        airflow("promote", model, 1, "--replaces", "none")
    assert champion(client, ref.model) is None
