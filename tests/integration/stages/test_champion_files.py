"""The ledger has the hashes of the files of a champion: only the evaluated files are promoted and scored."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from functools import partial
from pathlib import Path

import mlflow
import pytest
from sklearn.linear_model import LogisticRegression

from airflow_mlops.core.errors import ModelCorruptError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models import contracts
from airflow_mlops.registry.aliases import CONTRACT_TAG
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.names import HASH_TAG
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.candidates import from_elsewhere, register, training_rows, training_set

# The files of the champion are changed on the server.
pytestmark = pytest.mark.served_files

GATES = [{"metric": "accuracy", "min": 0.6}, {"champion": "ignore"}]


def step(store):
    return StepContext(store=store, key=f"results/{uuid.uuid4().hex}.json")


def put(client, ref, path, content):
    """Write a file of a version in MLflow, as everybody who may write there can."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        file.write_bytes(content)
        client.log_artifact(ref.run_id, str(file), Path("model", path).parent.as_posix())


@pytest.fixture
def dataset(store):
    return training_set(store)


@pytest.fixture
def champion(client, store, dataset, tmp_path):
    """A version that was evaluated and promoted."""
    made = register(client, tmp_path / "v", dataset, (2, 0), model=f"delays_{uuid.uuid4().hex[:8]}")
    verdict = evaluate.run(EvaluateSpec(candidates=[made], gates=GATES), step(store)).verdict
    promote.run(PromoteSpec(verdict=verdict), step(store))
    return made


@pytest.fixture
def run(store, champion, dataset):
    """Score with the champion, and return the mean score."""

    def run():
        spec = ScoreSpec(model=champion.model, dataset=dataset, part="test", window="2013-04")
        found = score.run(spec, step(store)).dataset
        return sum(open_dataset(store, found).table()["score"].to_pylist()) / found.rows

    return run


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Go to a worker that has not downloaded any model."""

    def elsewhere():
        monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir=tmp_path))

    return elsewhere


@pytest.fixture
def verify(airflow_db, store, champion, capsys):
    """Run ``airflow mlops ledger MODEL --verify``, and return what it prints."""
    from airflow.cli.cli_parser import get_parser

    def verify():
        args = get_parser().parse_args(["mlops", "ledger", champion.model, "--verify", "--store", store.url])
        args.func(args)
        return capsys.readouterr().out

    return verify


def test_the_entry_of_a_promotion_has_the_hashes_of_model_contract_and_card(client, store, champion, run, verify):
    (entry,) = Ledger(store, champion.model).entries()
    assert {*entry.files} == {"MLmodel", "model.onnx", "mlops/contract.json"}
    assert {*entry.card} == {"model_card.html", "model_card.md", "verdict.json"}
    assert {len(digest) for digest in [*entry.files.values(), *entry.card.values()]} == {64}
    assert "have not changed since the promotion" in verify()
    assert 0.4 < run() < 0.6


@pytest.mark.parametrize("attack", ["contract", "model", "addition"])
def test_changed_model_files_fail_scoring_and_verification(
    attack, client, store, dataset, champion, run, elsewhere, tmp_path, verify
):
    original = {path: (tmp_path / "v" / path).read_bytes() for path in ("mlops/contract.json", "model.onnx")}
    contract = json.loads(original["mlops/contract.json"])
    path, content = {
        # All predictions are inverted.
        "contract": ("mlops/contract.json", json.dumps({**contract, "classes": contract["classes"][::-1]}).encode()),
        "model": ("model.onnx", original["model.onnx"].replace(b"Sigmoid", b"HardSig")),
        "addition": ("mlops/profile.json", b"{}"),
    }[attack]
    put(client, champion, path, content)
    elsewhere()
    with pytest.raises(ModelCorruptError, match=path):
        run()
    with pytest.raises(SystemExit, match=path):
        verify()
    # A later evaluation compares with the champion, and monitoring reads its contract and profile.
    with pytest.raises(ModelCorruptError, match=path):
        evaluate.run(
            EvaluateSpec(
                candidates=[register(client, tmp_path / "w", dataset, (1, 0), model=champion.model)], gates=GATES
            ),
            step(store),
        )
    if path.startswith("mlops/"):
        with pytest.raises(ModelCorruptError, match=path):
            contracts.read(client, store, champion)
    else:
        assert contracts.read(client, store, champion).contract.classes == contract["classes"]
    if path in original:
        # The damaged copy on this worker is replaced when the file in MLflow is restored.
        put(client, champion, path, original[path])
        assert 0.4 < run() < 0.6


def test_a_worker_with_the_right_files_still_scores_and_verification_sees_the_change(
    client, store, champion, run, verify
):
    before = run()
    put(client, champion, "mlops/contract.json", b"{}")
    assert run() == before
    with pytest.raises(SystemExit, match="contract.json"):
        verify()


def test_a_changed_card_is_detected(client, store, champion, run, verify):
    client.log_text(champion.run_id, "It is fair.", "evaluation/model_card.md")
    with pytest.raises(SystemExit, match=r"model_card\.md"):
        verify()
    run()


def test_an_entry_of_an_earlier_release_is_read_and_its_champion_scored(client, store, champion, run, verify):
    ledger = Ledger(store, champion.model)
    key = f"{ledger.folder}/00000001.json"
    entry = store.read_json(key)
    old = {name: value for name, value in entry.items() if name not in ("files", "card")}
    old["candidates"] = [
        {name: value for name, value in item.items() if name != "files"} for item in entry["candidates"]
    ]
    store.write_json(key, old)
    digest = hashlib.sha256(store.read_bytes(key)).hexdigest()
    client.set_model_version_tag(champion.model, str(champion.version), HASH_TAG, digest)
    put(client, champion, "extra.txt", b"")
    assert 0.4 < run() < 0.6
    assert "not checked" in verify()


def test_a_foreign_champion_keeps_the_contract_that_was_promoted(client, store, dataset):
    model = f"delays_{uuid.uuid4().hex[:8]}"
    fitted = LogisticRegression().fit(*training_rows())
    made = from_elsewhere(model, mlflow.sklearn, fitted, answer=fitted.predict(training_rows()[0]))
    asked = partial(EvaluateSpec, candidates=[made], dataset=dataset, gates=GATES, metric="accuracy", allow_pyfunc=True)
    verdict = evaluate.run(asked(), step(store)).verdict
    promote.run(PromoteSpec(verdict=verdict), step(store))
    spec = ScoreSpec(model=model, dataset=dataset, part="test", window="2013-04")
    assert score.run(spec, step(store)).dataset.rows == 1_000
    ref = verdict.winner
    stored = contracts.read(client, store, ref)
    other = contracts.write(
        client, store, ref, stored.contract.model_copy(update={"classes": stored.contract.classes[::-1]}), {}
    )
    promoted = client.get_model_version(model, "1").tags[CONTRACT_TAG]
    client.set_model_version_tag(model, "1", CONTRACT_TAG, other)
    with pytest.raises(ModelCorruptError, match=promoted):
        score.run(spec, step(store))
    client.set_model_version_tag(model, "1", CONTRACT_TAG, promoted)
    assert score.run(spec, step(store)).dataset.rows == 1_000
