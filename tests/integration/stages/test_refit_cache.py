"""With the cache, a winner is fitted again only if the refit or the data recorded with the refit could differ.

Most changes are made one after the other to one winner, because its training and evaluation cost more than a refit.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from datetime import datetime, timezone
from pathlib import Path

import pytest

from airflow_mlops.core import own_code
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.data.datasets import mark_purged, open_dataset
from airflow_mlops.data.datasets.manifest import manifest_key
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.operators import RefitOperator
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import card_hashes
from airflow_mlops.registry.versions import champion, model_id_of
from airflow_mlops.stages import cached_versions
from airflow_mlops.stages.refit.spec import RefitSpec
from airflow_mlops.trainers import FunctionTrainer
from tests.integration.stages.test_refit import LOGISTIC, ROLLING, Chain, artifact
from tests.support import plots
from tests.support.cached import inputs_key, request, run_step

# The tests of this file take a minute, so they start early.
pytestmark = pytest.mark.slow

OTHER_GATES, FURTHER_GATES = ([{"metric": "roc_auc", "min": value}] for value in (0.5, 0.51))
# Fields in which a refit from the cache differs from a computed one.
OWN = ("run_id", "run_url", "cached", "usage", "summary")


class World(Chain):
    """A candidate that won an evaluation."""

    def __init__(self, client, store, trainer=LOGISTIC):
        super().__init__(store)
        self.client = client
        self.dataset = self.build(ROLLING)
        self.judged = self.train(self.dataset, trainer, tags={"team": "flights"})
        self.verdict = self.judge(self.judged)

    def fit(self, run_id, cache="use", verdict=None, **spec):
        verdict = (verdict or self.verdict).model_dump(mode="json")
        return run_step(self.store, "refit", run_id, cache, verdict=verdict, **spec)

    def outcome(self, run_id, cache="use", **spec):
        """What a refit returns or raises, and what MLflow shows of both versions afterwards."""
        try:
            result = self.fit(run_id, cache, **spec)
        except Exception as error:  # noqa: BLE001 - the refit may fail with and without the cache
            return None, type(error).__name__, str(error)
        made = {name: value for name, value in result.items() if name not in OWN}
        return result["cached"], made, self.recorded(new(result))

    def recorded(self, ref):
        shown = []
        for item in filter(None, (self.judged, ref)):
            version = self.client.get_model_version(item.model, str(item.version))
            run = self.client.get_run(item.run_id)
            tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlops.usage")}
            shown.append((version.tags, version.description, tags, card_hashes(self.client, item)))
        return shown

    def versions(self):
        return len(self.client.search_model_versions(f"name = '{self.model}'"))

    def undo(self):
        """Return a function that writes the files of the training set as they are now."""
        manifest = open_dataset(self.store, self.dataset).manifest
        keys = [manifest_key(manifest.name, manifest.id), *(file.path for file in manifest.files)]
        before = {key: self.store.read_bytes(key) for key in keys}
        return lambda: [self.store.write_bytes(key, content) for key, content in before.items()]

    def change_files(self, ref):
        folder = Path(self.store.local_path(f"changed/{ref.version}"))
        folder.mkdir(parents=True)
        (folder / "extra.txt").write_text("Added by a person.")
        self.client.log_model_artifacts(model_id_of(self.client, ref), str(folder))

    def change_run(self, run_id, file, text, folder=None):
        path = Path(self.store.local_path(f"changed/{file}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.client.log_artifact(run_id, str(path), folder)


def new(result):
    version = result["verdict"]["refit"]["version"]
    return ModelVersionRef.model_validate(version) if version else None


@pytest.fixture
def world(client, store):
    return World(client, store)


@pytest.fixture(scope="module")
def used(mlflow_server, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        plots.leave_empty(patch)
        patch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_server}))
        store = ArtifactStore(f"file://{tmp_path_factory.mktemp('shared')}/store")
        return World(connect(MLflowTarget(), from_environment), store)


@pytest.fixture
def shared(used, mlflow_connection):
    """A world that several tests change. A test leaves a winner that can be fitted again."""
    return used


def test_an_unchanged_refit_writes_nothing_and_is_the_one_that_would_be_computed(world):
    first = world.fit("one")
    before, versions = world.recorded(new(first)), world.versions()
    second = world.fit("two")
    assert (first["cached"], second["cached"]["run_id"]) == (None, "one")
    assert {**second, "cached": None, "usage": None, "summary": first["summary"]} == {**first, "usage": None}
    assert (world.recorded(new(first)), world.versions()) == (before, versions)
    # A computed refit has another MLflow run, but gives the same version and verdict.
    third = world.fit("three", cache=None)
    assert {name: value for name, value in third.items() if name not in OWN} == {
        name: value for name, value in second.items() if name not in OWN
    }
    assert (third["summary"], third["run_id"] == first["run_id"]) == (first["summary"], False)
    assert (world.recorded(new(first)), world.versions()) == (before, versions)
    # In a task that was cleared, the winner is fitted again.
    assert world.fit("four", cache="renew")["cached"] is None
    assert world.fit("five")["cached"]["run_id"] == "four"
    # A notification is sent by the task that registered the version, and by no other.
    operator = RefitOperator(task_id="refit", verdict="")
    events = [operator.event({**result, "run_url": None}, {}) for result in (second, third)]
    assert events == [None, None]


def other_verdict(world, first):
    world.verdict = world.judge(world.judged, gates=OTHER_GATES)


def judged_again(world, first):
    """The model card of the judged version, which the refit copies, is that of another evaluation."""
    world.judge(world.judged, gates=FURTHER_GATES)


def fitted_again_for_another_verdict(world, first):
    """The version is identical, and its model card has the other verdict now."""
    other = world.verdict.model_copy(update={"reason": "Another reason."})
    assert new(world.fit("other", verdict=other)) == new(first)


def other_training(world, first):
    training = json.loads(artifact(world.client, world.judged, "training.json"))
    training["trainer"]["params"]["C"] = 0.5
    world.change_run(world.judged.run_id, "training.json", json.dumps(training))


def other_tag(world, first):
    world.client.set_tag(world.judged.run_id, "team", "trains")


def other_code_version(world, first):
    world.client.set_tag(world.judged.run_id, "mlops.code_version", "2")


def other_experiment(world, first):
    experiment = world.client.get_run(world.judged.run_id).info.experiment_id
    world.client.rename_experiment(experiment, f"renamed_{uuid.uuid4().hex}")


def purged_training_set(world, first):
    undo = world.undo()
    mark_purged(world.store, open_dataset(world.store, world.dataset).manifest, datetime.now(timezone.utc))
    return undo


def deleted_training_file(world, first):
    undo = world.undo()
    for file in open_dataset(world.store, world.dataset).manifest.files:
        world.store.delete(file.path)
    return undo


def changed_training_file(world, first):
    undo = world.undo()
    world.store.write_bytes(open_dataset(world.store, world.dataset).manifest.files[0].path, b"changed")
    return undo


def deleted_judged_version(world, first):
    world.client.delete_model_version(world.model, str(world.judged.version))


def changed_judged_version(world, first):
    world.change_files(world.judged)


def deleted_judged_run(world, first):
    world.client.delete_run(world.judged.run_id)
    return lambda: world.client.restore_run(world.judged.run_id)


def deleted_version(world, first):
    world.client.delete_model_version(world.model, str(new(first).version))


def changed_version(world, first):
    world.change_files(new(first))
    return lambda: deleted_version(world, first)


def deleted_model(world, first):
    """The numbers of the versions belong to other versions."""
    world.client.delete_registered_model(world.model)
    dataset = world.build(ROLLING, split={"method": "time", "test_size": "10D"})
    assert world.train(dataset).version == world.judged.version


def deleted_run(world, first):
    world.client.delete_run(first["run_id"])


def changed_checks(world, first):
    world.change_run(first["run_id"], "refit.json", "{}")


def changed_run_tag(world, first):
    world.client.set_tag(first["run_id"], "mlops.verdict", "failed")


def changed_version_tag(world, first):
    world.client.set_model_version_tag(world.model, str(new(first).version), "mlops.refit_of", "777")


def no_identity(world, first):
    world.client.delete_model_version_tag(world.model, str(new(first).version), "mlops.identity")


def judged_names_another_refit(world, first):
    world.client.set_model_version_tag(world.model, str(world.judged.version), "mlops.refit", "777")


def judged_run_names_another_refit(world, first):
    world.client.set_tag(world.judged.run_id, "mlops.refit", "777")


def changed_card(world, first):
    world.change_run(new(first).run_id, "model_card.md", "Changed.", "evaluation")


def changed_verdict(world, first):
    world.change_run(new(first).run_id, "verdict.json", "{}", "evaluation")


def other_evaluation(world, first):
    world.client.set_tag(new(first).run_id, "mlops.evaluated_on", "another dataset")


def no_description(world, first):
    world.client.update_model_version(world.model, str(new(first).version), "")


# After these, the winner can no longer be fitted again, or its refits are no longer cached.
FINAL = [changed_judged_version, deleted_judged_version, deleted_model, deleted_run]
CHANGES = [
    other_verdict, judged_again, fitted_again_for_another_verdict, other_training, other_tag, other_code_version,
    other_experiment, purged_training_set, deleted_training_file, changed_training_file, deleted_judged_run,
    deleted_version, changed_version, changed_checks, changed_run_tag, changed_version_tag, no_identity,
    judged_names_another_refit, judged_run_names_another_refit, changed_card, changed_verdict, other_evaluation,
    no_description,
]  # fmt: skip


@pytest.mark.parametrize("change", [*CHANGES, *FINAL], ids=lambda change: change.__name__)
def test_a_winner_is_fitted_again_if_an_input_or_the_record_has_changed(change, request, mlflow_server):
    world = request.getfixturevalue("world" if change in FINAL else "shared")

    def task(number):
        return f"{change.__name__}-{number}"

    first = world.fit(task("one"))
    if first["cached"] is None and change not in FINAL:
        # This was the first refit, or the change before it cannot be undone by a refit. Refit again.
        first = world.fit(task("again"))
        assert first["cached"]["run_id"] == task("one")
    undo = change(world, first)
    found = world.outcome(task("two"))
    assert found[0] is None
    # With the cache, the refit returns the same result or raises the same error as without the cache.
    assert found == world.outcome(task("three"), cache=None)
    if undo is not None:
        undo()


def test_a_worker_that_has_the_changed_files_of_the_winner_fits_again(world, tmp_path, monkeypatch):
    world.fit("one")
    # The other worker downloads the models itself.
    monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir=tmp_path))
    assert world.fit("two")["cached"]["run_id"] == "one"
    world.change_files(world.judged)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir=tmp_path))
    assert world.fit("three")["cached"] is None


def test_changes_after_which_a_refit_would_give_the_same(world):
    first = world.fit("one")
    # A promotion, a change of the champion and another alias affect neither the fit nor the checks.
    world.promote(RefitSpec(verdict=first["verdict"]).verdict)
    assert champion(world.client, world.model) == new(first)
    found = world.outcome("three")
    assert found[0]["run_id"] == "one"
    assert found[1:] == world.outcome("four", cache=None)[1:]
    world.client.set_registered_model_alias(world.model, "champion", str(world.judged.version))
    found = world.outcome("five")
    assert found[0]["run_id"] == "one"
    assert found[1:] == world.outcome("six", cache=None)[1:]


def test_another_release_and_another_request_are_other_inputs(shared, monkeypatch):
    def key(*requests):
        spec = {"verdict": shared.verdict.model_dump(mode="json")}
        return inputs_key(shared.store, "refit", spec, Provenance(requests=list(requests)))

    keys = {key(), *(key(request(shared.model, number)) for number in ("r", "s"))}
    assert None not in keys
    assert len(keys) == 3
    # A request for another model is not recorded with the refit.
    assert key(request("other", "r")) == key()
    before = key()
    monkeypatch.setattr(own_code, "__version__", "0.0.1")
    assert key() not in (None, before)


def test_another_address_of_mlflow_is_another_url(shared, monkeypatch):
    first = shared.fit("address-one")
    assert first["run_url"] is not None
    assert shared.fit("address-two")["cached"] is not None
    monkeypatch.setattr(cached_versions, "run_url", lambda client, run_id: f"http://elsewhere/{run_id}")
    assert shared.fit("address-three")["cached"] is None


def test_a_failed_check_is_cached_and_no_winner_is_not(shared, monkeypatch):
    monkeypatch.setattr("airflow_mlops.stages.refit.checks.LIMIT", 1e-6)
    # Another verdict, for which no refit is cached.
    verdict = shared.verdict.model_copy(update={"reason": "This refit fails."})
    first, second = (shared.fit(f"check-{number}", verdict=verdict) for number in ("one", "two"))
    assert new(first) is None
    assert second["cached"]["run_id"] == "check-one"
    assert second["verdict"] == first["verdict"] == shared.fit("check-three", cache=None, verdict=verdict)["verdict"]
    shared.client.delete_run(first["run_id"])
    assert shared.fit("check-four", verdict=verdict)["cached"] is None
    lost = verdict.model_copy(update={"winner": None})
    results = [shared.fit(run_id, verdict=lost) for run_id in ("check-five", "check-six")]
    assert [result["cached"] for result in results] == [None, None]


CODE = """
from {helper} import STRENGTH
from sklearn.linear_model import LogisticRegression

def fit(X, y, *, params, seed):
    return LogisticRegression(C=STRENGTH).fit(X, y)
"""


def test_code_of_the_user_counts_and_must_be_allowed(client, store, tmp_path, monkeypatch):
    name, helper = (f"own_{uuid.uuid4().hex[:8]}" for _ in range(2))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(CODE.format(helper=helper))
    (tmp_path / f"{helper}.py").write_text("STRENGTH = 1.0\n")
    world = World(client, store, FunctionTrainer(f"{name}:fit"))
    assert world.fit("one", allow_code=True)["cached"] is None
    assert world.fit("two", allow_code=True)["cached"]["run_id"] == "one"
    with pytest.raises(Exception, match="names code outside scikit-learn"):
        world.fit("three")
    (tmp_path / f"{helper}.py").write_text("STRENGTH = 2.0\n")
    for module in (name, helper):
        sys.modules.pop(module, None)
    assert world.fit("four", allow_code=True)["cached"] is None
