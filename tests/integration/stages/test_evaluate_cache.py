"""With the cache, an evaluation runs again only if its verdict or the data recorded with the verdict could differ."""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from airflow_mlops.core import own_code
from airflow_mlops.core.errors import ModelCorruptError
from airflow_mlops.data.datasets import find_datasets, mark_purged, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import explanation
from airflow_mlops.registry import signatures
from airflow_mlops.registry.integrity import card_hashes
from airflow_mlops.registry.records.received import VERSION_TAG
from airflow_mlops.stages.evaluate import champion as champions
from tests.integration.stages.test_evaluate_live import World as LiveWorld
from tests.support.cached import run_step
from tests.support.candidates import from_elsewhere, held_out, register, training_rows, training_set

GOOD, WEAK = (2, 0), (1, 2)


def evaluated(store, run_id, cache="use", **spec):
    return run_step(store, "evaluate", run_id, cache, **spec)


@dataclass
class World:
    """Two versions of a model, of which the second one is the champion, and a third one that is the candidate."""

    client: object
    store: ArtifactStore
    folder: Path

    def __post_init__(self):
        self.model = f"delays_{uuid.uuid4().hex[:8]}"
        self.dataset = training_set(self.store, name=f"{self.model}_training")
        self.others = [self.register(WEAK), self.register((1, 1))]
        self.candidate = self.register(GOOD)
        self.explain("of this model")
        self.promote(self.others[1])

    def register(self, weights):
        return register(self.client, self.folder / uuid.uuid4().hex, self.dataset, weights, model=self.model)

    def explain(self, text):
        (self.folder / explanation.FILE).write_text(text)
        self.client.log_artifact(self.candidate.run_id, str(self.folder / explanation.FILE), explanation.FOLDER)

    def promote(self, ref):
        self.client.set_registered_model_alias(self.model, "champion", str(ref.version))

    def evaluate(self, run_id, cache="use", **spec):
        return evaluated(self.store, run_id, cache, **{"candidates": [self.candidate], **spec})

    def recorded(self):
        """What MLflow shows of the candidate, except usage and the card, which names the time."""
        run = self.client.get_run(self.candidate.run_id)
        version = self.client.get_model_version(self.model, str(self.candidate.version))
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlops.usage")}
        return tags, version.tags, version.description, card_hashes(self.client, self.candidate)["verdict.json"]


@pytest.fixture
def world(client, tmp_path):
    return World(client, ArtifactStore(f"file://{tmp_path}/store"), tmp_path)


def test_a_cached_evaluation_leaves_the_same_records_as_a_repeated_one(world):
    first = world.evaluate("one")
    before = world.recorded()
    second = world.evaluate("two")
    assert (first["cached"], second["cached"]["run_id"]) == (None, "one")
    assert {**second, "cached": None, "usage": None, "summary": first["summary"]} == {**first, "usage": None}
    assert world.recorded() == before
    again = world.evaluate("three", cache="renew")
    assert again["cached"] is None
    assert again["verdict"] == second["verdict"]
    assert world.recorded() == before
    # A candidate that is given without its run, and is completed from the registry, counts as the same candidate.
    looked_up = [{"model": world.model, "version": world.candidate.version}]
    assert world.evaluate("four", candidates=looked_up)["cached"]["run_id"] == "three"


def test_a_champion_without_a_required_signature_has_no_cached_verdict(world, monkeypatch):
    world.evaluate("one")
    assert world.evaluate("two")["cached"] is not None
    monkeypatch.setattr(signatures, "required", lambda: True)
    with pytest.raises(ModelCorruptError):
        world.evaluate("three")


def other_champion(world):
    world.promote(world.others[0])


def no_champion(world):
    world.client.delete_registered_model_alias(world.model, "champion")


def candidate_promoted(world):
    world.promote(world.candidate)


def changed_candidate(world):
    (file,) = Path(world.client.download_artifacts(world.candidate.run_id, "model", str(world.folder))).glob("*.onnx")
    file.write_bytes(file.read_bytes() + b"\0")
    world.client.log_artifact(world.candidate.run_id, str(file), "model")


def evaluated_with_others(world):
    # This evaluation records another verdict with the candidate.
    assert world.evaluate("other", candidates=[world.candidate, world.others[0]])["cached"] is None


def lost_description(world):
    world.client.update_model_version(world.model, str(world.candidate.version), "")


def changed_verdict_tag(world):
    world.client.set_tag(world.candidate.run_id, "mlops.verdict", "failed")


def changed_compared_tag(world):
    world.client.set_model_version_tag(world.model, str(world.candidate.version), "mlops.compared", "7")


def changed_card(world):
    file = world.folder / "model_card.md"
    file.write_text("changed")
    world.client.log_artifact(world.candidate.run_id, str(file), "evaluation")


def changed_lineage(world):
    world.client.set_tag(world.candidate.run_id, "mlops.retrain.reason", "another one")


def changed_explanation(world):
    world.explain("of another model")


def changed_metric(world):
    (world.folder / f"own_{world.model}.py").write_text(METRIC.replace("1.0", "2.0"))


def another_set_to_score(world):
    training_set(world.store, name=f"{world.model}_to_score", test=held_out(seed=9))


METRIC = "def right(y_true, y_pred):\n    return 1.0 * float((y_true == y_pred).mean())\n"


# For the last change, a new evaluation does not restore the caching, because it reads its own copy of the files.
CHANGES = (
    other_champion,
    no_champion,
    evaluated_with_others,
    lost_description,
    changed_verdict_tag,
    changed_compared_tag,
    changed_card,
    changed_lineage,
    changed_explanation,
    changed_metric,
    another_set_to_score,
    candidate_promoted,
    changed_candidate,
)


def test_a_verdict_or_a_record_that_may_differ_is_computed(world, monkeypatch):
    monkeypatch.syspath_prepend(str(world.folder))
    (world.folder / f"own_{world.model}.py").write_text(METRIC)
    training_set(world.store, name=f"{world.model}_to_score")
    gates = [
        {"metric": f"own_{world.model}:right", "greater_is_better": True, "min": 0.5},
        {"can_score": {"name": f"{world.model}_to_score"}},
    ]
    made_by = "first"
    world.evaluate(made_by, gates=gates)
    for change in CHANGES:
        before = world.evaluate(f"before {change.__name__}", gates=gates)["cached"]
        assert before is not None, change
        assert before["run_id"] == made_by, change
        change(world)
        made_by = f"after {change.__name__}"
        assert world.evaluate(made_by, gates=gates)["cached"] is None, change


def test_a_champion_that_comes_back_is_the_same_input(world):
    """Each evaluation is compared with the champion of its time."""
    world.evaluate("one")
    world.promote(world.others[0])
    moved = world.evaluate("two")
    assert (moved["cached"], moved["verdict"]["champion"]["version"]) == (None, world.others[0].version)
    world.promote(world.others[1])
    # The record of the first verdict was replaced, so the verdict is computed and recorded again.
    back = world.evaluate("three")
    assert (back["cached"], back["verdict"]["champion"]["version"]) == (None, world.others[1].version)
    assert world.evaluate("four")["cached"]["run_id"] == "three"


def test_a_comparison_with_a_champion_that_was_replaced_while_the_step_began_is_not_cached(world, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(champions, "champion", lambda client, model: world.others[0])
        world.evaluate("one")
    again = world.evaluate("two")
    assert (again["cached"], again["verdict"]["champion"]["version"]) == (None, world.others[1].version)


@pytest.mark.parametrize(
    ("gate", "reason"),
    [({"max_latency_ms": 1_000}, "measures time"), ({"reproducible": True}, "trains the candidate again")],
)
def test_gates_that_depend_on_other_inputs_are_always_checked(world, gate, reason, caplog):
    caplog.set_level(logging.INFO, logger="airflow_mlops.stages")
    results = [world.evaluate(run_id, gates=[gate]) for run_id in ("one", "two")]
    assert [result["cached"] for result in results] == [None, None]
    assert reason in caplog.text
    assert world.store.keys("cache") == []


def test_a_champion_that_was_fitted_again_counts_with_the_version_that_is_measured_in_its_place(world, caplog):
    caplog.set_level(logging.INFO, logger="airflow_mlops.stages")
    champion = world.others[1]
    file = Path(world.client.download_artifacts(champion.run_id, "model/mlops/contract.json", str(world.folder)))
    contract = json.loads(file.read_text()) | {"refit_of": world.others[0].version}
    file.write_text(json.dumps(contract))
    world.client.log_artifact(champion.run_id, str(file), "model/mlops")
    first = world.evaluate("one")
    assert f"v{world.others[0].version} was measured instead" in first["verdict"]["policy"]
    assert world.evaluate("two")["cached"]["run_id"] == "one"
    world.client.set_model_version_tag(world.model, str(champion.version), VERSION_TAG, "5")
    received = world.evaluate("three")
    assert (received["cached"], received["verdict"]["champion_metrics"]) == (None, {})
    assert "in another registry" in caplog.text


def test_versions_that_train_operator_did_not_train_are_always_evaluated(world, caplog):
    import mlflow
    from sklearn.linear_model import LogisticRegression

    caplog.set_level(logging.INFO, logger="airflow_mlops.stages")
    foreign = from_elsewhere(world.model, mlflow.sklearn, LogisticRegression().fit(*training_rows()), answer=[True])
    for run_id in ("one", "two"):
        result = world.evaluate(run_id, candidates=[foreign], dataset=world.dataset, allow_pyfunc=True)
        assert result["cached"] is None
    assert "TrainOperator did not train" in caplog.text
    assert world.store.keys("cache") == []


def test_data_that_was_deleted_and_versions_that_were_deleted_are_not_taken_from_the_cache(world):
    world.evaluate("one")
    dataset = open_dataset(world.store, world.dataset)
    for file in dataset.manifest.files:
        world.store.delete(file.path)
    with pytest.raises(Exception, match="does not exist"):
        world.evaluate("two")
    world.dataset = training_set(world.store, name=world.dataset.name)
    assert world.evaluate("three")["cached"]["run_id"] == "one"
    world.client.delete_model_version(world.model, str(world.candidate.version))
    with pytest.raises(Exception, match="not found"):
        world.evaluate("four")


def test_another_release_of_a_package_is_another_input(world, monkeypatch):
    world.evaluate("one")
    monkeypatch.setattr(own_code, "__version__", "0.0.1")
    assert world.evaluate("two")["cached"] is None


def test_live_evidence_becomes_the_current_one_again_and_purged_evidence_does_not_count(client, tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    live = LiveWorld(client, tmp_path, store)
    data = live.rows(500)
    evidence = [live.outcomes(data), live.outcomes(data, alias="challenger")]

    def judge(run_id, chosen=evidence):
        return evaluated(store, run_id, candidates=live.versions[1:], evidence=chosen)

    def current():
        (found,) = find_datasets(store, f"{live.model}_evidence")
        return found.manifest.id

    first = judge("one")
    other = live.outcomes(data, labels=data.slice(100), alias="challenger")
    assert judge("two", [evidence[0], other])["cached"] is None
    assert current() != first["verdict"]["dataset_id"]
    # The second verdict is the one recorded with the candidate.
    assert judge("three")["cached"] is None
    evaluated(store, "four", candidates=live.versions[:1], evidence=[other, evidence[0]])
    assert current() != first["verdict"]["dataset_id"]
    again = judge("five")
    assert again["cached"]["run_id"] == "three"
    assert again["verdict"] == first["verdict"]
    assert current() == first["verdict"]["dataset_id"]
    purged = open_dataset(store, evidence[1])
    mark_purged(store, purged.manifest, datetime.now(timezone.utc))
    for file in purged.manifest.files:
        store.delete(file.path)
    with pytest.raises(Exception, match="deleted"):
        judge("six")
