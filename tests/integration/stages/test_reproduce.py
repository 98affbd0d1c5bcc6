"""Registered versions are trained again from the spec in their run, and compared."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import uuid

import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.data.datasets.manifest import manifest_key
from airflow_mlops.registry.names import ENVIRONMENT_FILE, TRAINING_FILE
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.reproduce import step as reproduce
from airflow_mlops.stages.reproduce.spec import ReproduceSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import FunctionTrainer, SklearnTrainer, TorchTrainer
from tests.support.processes import run_here
from tests.support.training import flights, training_set

FOREST = SklearnTrainer("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 10})
OWN = """
from sklearn.linear_model import LogisticRegression
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

def fit(X, y, *, params, seed):
    numbers = make_column_transformer((SimpleImputer(), ["distance", "hour", "weekend"]))
    return make_pipeline(numbers, LogisticRegression(C=0.5)).fit(X, y)
"""


@pytest.fixture
def learn(client, store):
    model = f"late_{uuid.uuid4().hex[:8]}"

    def learn(trainer, **fields):
        spec = TrainSpec(dataset=training_set(store), model=model, trainer=trainer, **fields)
        return train.run(spec, StepContext(store, f"results/{uuid.uuid4().hex}.json"))

    return learn


@pytest.fixture
def again(airflow_db, store, capsys, monkeypatch):
    """Run ``airflow mlops reproduce``; return the exit status, the comparisons by property, and stderr.

    The command starts a process for the step only with ``own_process``, because its imports take most of the CPU time.
    """
    from airflow.cli.cli_parser import get_parser

    def again(candidate, *options, own_process=False):
        with monkeypatch.context() as patch:
            if not own_process:
                run_here(patch)
                # A new process would import it.
                sys.modules.pop("own_trainer", None)
            return command(candidate, *options)

    def command(candidate, *options):
        words = [
            "mlops",
            "reproduce",
            candidate.model,
            str(candidate.version),
            "--store",
            store.url,
            "-o",
            "json",
            *options,
        ]
        args = get_parser().parse_args(words)
        status = 0
        try:
            args.func(args)
        except SystemExit as ended:
            status = ended.code
        captured = capsys.readouterr()
        rows = {row["what"]: row for row in json.loads(captured.out)} if captured.out else {}
        return status, rows, captured.err

    return again


def verdicts(rows, kind):
    return {row["verdict"] for what, row in rows.items() if what.startswith(kind)}


def test_a_forest_is_reproduced_exactly_and_nothing_is_registered(learn, again, client, store):
    made = learn(FOREST, seed=3)
    before = client.search_runs([client.get_run(made.run_id).info.experiment_id])
    status, rows, log = again(made.candidate, own_process=True)
    assert status == 0
    assert {row["verdict"] for row in rows.values()} == {"equal"}
    assert float(rows["metric roc_auc"]["now"]) == made.metrics["roc_auc"]
    assert {"data", "seed", "Python", "package scikit-learn", f"code {FOREST['estimator']}"} <= set(rows)
    assert f"{made.candidate} is reproduced." in log
    assert len(client.search_model_versions(f"name = '{made.candidate.model}'")) == 1
    after = client.search_runs([client.get_run(made.run_id).info.experiment_id])
    assert [run.info.run_id for run in after] == [run.info.run_id for run in before]
    assert store.keys("results/cli") == []


@pytest.mark.slow
def test_a_network_is_reproduced_and_leaves_no_checkpoint(learn, again, store):
    made = learn(TorchTrainer(params={"hidden": [8]}, epochs=2, batch_size=64, checkpoint_every=2, device="cpu"))
    status, rows, log = again(made.candidate)
    assert status == 0, log
    assert verdicts(rows, "metric") <= {"equal", "within tolerance"}
    assert store.keys("checkpoints/results/cli") == []


def tamper(client, run_id, **changes):
    """Change the training spec in the run."""
    import mlflow

    found = mlflow.artifacts.load_dict(f"runs:/{run_id}/{TRAINING_FILE}")
    client.log_dict(run_id, {**found, **changes}, TRAINING_FILE)


def test_another_seed_is_reported(learn, again, client):
    made = learn(FOREST, seed=3)
    tamper(client, made.run_id, seed=4)
    status, rows, log = again(made.candidate)
    assert status == 1
    assert rows["seed"] == {"what": "seed", "then": "3", "now": "4", "verdict": "differs"}
    assert rows["metric roc_auc"]["verdict"] == "differs"
    assert ": seed, metric roc_auc" in log


def test_other_data_are_reported(learn, again, client, store):
    made = learn(FOREST)
    other = training_set(store, train=flights(600, seed=9))
    tamper(client, made.run_id, dataset=other.model_dump(mode="json"))
    status, rows, _ = again(made.candidate)
    assert status == 1
    assert rows["data"]["verdict"] == "differs"
    assert (rows["data"]["then"], rows["data"]["now"]) == (made.dataset.id, other.id)


def test_a_changed_dataset_file_is_an_error(learn, again, store):
    made = learn(FOREST)
    key = store.keys("datasets/late_training/files")[0]
    store.write_bytes(key, store.read_bytes(key)[:-1] + b"!")
    status, rows, _ = again(made.candidate)
    assert "was changed after it was written" in status
    assert rows == {}


def test_rows_that_were_changed_with_their_manifest_are_an_error(learn, again, store):
    made = learn(FOREST)
    key = manifest_key(made.dataset.name, made.dataset.id)
    manifest = store.read_json(key)
    file = manifest["files"][0]
    rows = pq.read_table(io.BytesIO(store.read_bytes(file["path"])))
    changed = io.BytesIO()
    pq.write_table(rows.take(list(reversed(range(len(rows))))), changed)
    store.write_bytes(file["path"], changed.getvalue())
    file["sha256"] = hashlib.sha256(changed.getvalue()).hexdigest()
    store.write_json(key, manifest)
    status, rows, _ = again(made.candidate)
    assert "are not those of dataset" in status
    assert rows == {}


def test_changed_code_is_reported_even_if_the_metrics_are_equal(learn, again, tmp_path, monkeypatch):
    (tmp_path / "own_trainer.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_trainer", raising=False)
    made = learn(FunctionTrainer("own_trainer:fit"))
    refused, rows, _ = again(made.candidate)
    assert "own_trainer:fit" in refused
    assert "--allow-code" in refused
    assert rows == {}
    assert again(made.candidate, "--allow-code", own_process=True)[0] == 0
    (tmp_path / "own_trainer.py").write_text(OWN + "\n# Nothing else changed.\n")
    status, rows, log = again(made.candidate, "--allow-code")
    assert status == 1
    assert rows["code own_trainer:fit"]["verdict"] == "differs"
    assert verdicts(rows, "metric") == {"equal"}
    assert ": code own_trainer:fit." in log
    (tmp_path / "own_trainer.py").write_text(OWN.replace("C=0.5", "C=0.001"))
    status, rows, _ = again(made.candidate, "--allow-code")
    assert status == 1
    assert "differs" in verdicts(rows, "metric")


def test_code_that_somebody_wrote_into_the_run_does_not_run(learn, again, client, store, tmp_path):
    from airflow_mlops.core.errors import SpecError
    from airflow_mlops.stages.reproduce import step as reproduce
    from airflow_mlops.stages.reproduce.spec import ReproduceSpec

    made, marker = learn(FOREST), tmp_path / "executed"
    touch = {"args": ["touch", str(marker)]}
    script = f"open({str(marker)!r}, 'w')"
    attacks = [
        {"trainer": {"kind": "sklearn", "estimator": "subprocess.Popen", "params": touch}},
        {
            "trainer": {
                "estimator": "sklearn.utils._testing.assert_run_python_script_without_output",
                "params": {"source_code": script},
            }
        },
        {"trainer": {**FOREST, "preprocessing": "os:system"}},
        {"trainer": {"kind": "torch", "module": "subprocess:Popen", "params": touch, "epochs": 1}},
        {"trainer": FOREST, "metrics": ["os.path:samefile"]},
    ]
    for attack in attacks:
        tamper(client, made.run_id, **attack)
        with pytest.raises(SpecError, match="allow_code"):
            reproduce.run(
                ReproduceSpec(model=made.candidate.model, version=1), StepContext(store, "results/again.json")
            )
    assert not marker.exists()
    tamper(client, made.run_id, **attacks[0])
    status, rows, _ = again(made.candidate)
    assert "subprocess.Popen" in status
    assert (rows, marker.exists()) == ({}, False)
    # The gate of an evaluation and a refit run what the run names, too.
    judged = EvaluateSpec(
        candidates=[made.candidate], gates=[{"reproducible": True}, {"metric": "roc_auc", "min": 0.1}]
    )
    verdict = evaluate.run(judged, StepContext(store, "results/judge.json")).verdict
    assert verdict.winner is None
    assert not marker.exists()


def test_another_environment_is_noted_without_a_failure(learn, again, client):
    import mlflow

    made = learn(FOREST)
    found = mlflow.artifacts.load_dict(f"runs:/{made.run_id}/{ENVIRONMENT_FILE}")
    client.log_dict(made.run_id, {**found, "scikit-learn": "1.5.0"}, ENVIRONMENT_FILE)
    status, rows, log = again(made.candidate)
    assert status == 0
    assert rows["package scikit-learn"]["verdict"] == "noted"
    assert "(package scikit-learn)." in log


def test_only_networks_have_a_tolerance():
    from airflow_mlops.stages.reproduce.step import _metrics, _tolerance

    def verdict(trainer, then, now, on_gpu=False):
        spec = TrainSpec(dataset={"name": "d", "id": "0", "rows": 1}, model="m", trainer=trainer)
        (found,) = _metrics({"roc_auc": then}, {"roc_auc": now}, _tolerance(spec, on_gpu))
        return found.verdict

    assert verdict(FOREST, 0.7, 0.7) == "equal"
    assert verdict(FOREST, 0.7, 0.7 + 1e-12) == "differs"
    assert verdict(TorchTrainer(), 0.7, 0.7 + 1e-9) == "within tolerance"
    assert verdict(TorchTrainer(), 0.7, 0.7001) == "differs"
    assert verdict(TorchTrainer(), 0.7, 0.7001, on_gpu=True) == "within tolerance"
    assert verdict(TorchTrainer(precision="bf16"), 0.7, 0.75) == "differs"


def test_the_gate_promotes_only_reproducible_candidates(learn, client, store):
    def judge(*candidates, **options):
        gates = [{"reproducible": True}, {"metric": "roc_auc", "min": 0.6, **options}]
        spec = EvaluateSpec(candidates=[made.candidate for made in candidates], gates=gates)
        return evaluate.run(spec, StepContext(store, f"results/{uuid.uuid4().hex}.json")).verdict

    same, other = learn(FOREST, seed=3), learn(FOREST, seed=4)
    tamper(client, other.run_id, seed=5)
    verdict = judge(same, other)
    assert verdict.winner == same.candidate
    reproduced, differs = (verdict.for_candidate(made.candidate).gates[0] for made in (same, other))
    assert (reproduced.passed, reproduced.measured) == (True, 0)
    assert reproduced.explanation == f"{same.candidate} is reproduced."
    assert not differs.passed
    assert differs.measured > 0
    assert f"{other.candidate} is not reproduced" in differs.explanation
    assert f"metric roc_auc was {other.metrics['roc_auc']!r} and is " in differs.explanation
    # A candidate that fails another gate is not trained again.
    (refused,) = judge(same, min=0.999).candidates
    names = ["roc_auc at least 0.999", "roc_auc not worse than the champion", "roc_auc better than a simple model"]
    assert [gate.gate for gate in refused.gates] == names


def test_a_version_without_a_run_is_refused_with_this_reason(client, store):
    model = f"late_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(model)
    client.create_model_version(model, source="s3://models/by-hand")
    with pytest.raises(RegistryError, match=f"^{model} v1 cannot be reproduced, because it has no MLflow run"):
        reproduce.run(ReproduceSpec(model=model, version=1), StepContext(store))
