"""Labelled predictions of production decide between challenger and champion, on the rows that both have predicted."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from airflow_mlops.core.errors import DatasetPurgedError, EvaluationError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.purge_predictions import step as purge
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.candidates import FEATURES, held_out, register, training_set
from tests.support.deployed import write

GOOD, WEAK = (2, 0), (1, 2)
WINDOW = "2013-04"


class World:
    """A model in production: the champion is version 1, the challenger version 2."""

    def __init__(self, client, folder, store, weights=(WEAK, GOOD), task="binary", **options):
        self.client, self.store, self.task = client, store, task
        self.model = f"delays_{uuid.uuid4().hex[:8]}"
        dataset = training_set(store, task, name=f"{self.model}_training")
        self.versions = [
            register(client, folder / f"{self.model}{number}", dataset, each, model=self.model, task=task, **options)
            for number, each in enumerate(weights)
        ]
        client.set_registered_model_alias(self.model, "champion", str(self.versions[0].version))
        client.set_registered_model_alias(self.model, "challenger", str(self.versions[1].version))
        self.context = StepContext(store=store)

    def rows(self, number=2_000):
        """Rows on which no version was trained."""
        data = held_out(self.task, number, seed=7)
        return data.set_column(0, "flight", pa.array(np.arange(10_000, 10_000 + number)))

    def outcomes(self, data, labels=None, window=WINDOW, keys=("flight",), name=None, **fields):
        """Score rows with a version, and join their labels."""
        details = {
            "timestamp": None,
            "features": list(FEATURES),
            "label": None,
            **({"keys": list(keys)} if keys else {}),
        }
        rows = write(self.store, f"scoring_{self.model}", data.drop_columns(["label"]), window, details)
        scored = score.run(ScoreSpec(model=self.model, dataset=rows, **fields), self.context)
        labels = data if labels is None else labels
        known = write(self.store, f"arrivals_{self.model}", labels.select(["flight", "label"]), window)
        spec = JoinLabelsSpec(
            predictions=scored.dataset, labels=known, on=["flight"], label="label",
            name=name or (f"{self.model}_outcomes" if scored.scored_by == self.versions[0] else f"{self.model}_shadow_outcomes"),
        )  # fmt: skip
        return join_labels.run(spec, self.context).dataset

    def judge(self, *evidence, candidates=None, **fields):
        spec = EvaluateSpec(candidates=candidates or self.versions[1:], evidence=list(evidence), **fields)
        return evaluate.run(spec, self.context)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


@pytest.fixture
def world(client, store, tmp_path):
    return World(client, tmp_path, store)


def scores_of(store, ref, wanted):
    table = open_dataset(store, ref).table()
    found = dict(zip(table["flight"].to_pylist(), table["score"].to_pylist(), strict=True))
    return [found[key] for key in wanted]


def test_the_better_of_two_versions_in_production_wins_and_is_promoted(world, store):
    data = world.rows()
    acted_on, shadow = world.outcomes(data), world.outcomes(data, alias="challenger")
    gates = [
        {"metric": "roc_auc", "better_than_champion_by": 0.0},
        {"metric": "log_loss", "slices": ["wind"], "not_worse_than_champion_by": 0.02},
        {"max_latency_ms": 1_000},
        {"behaviour": "direction", "feature": "distance", "direction": "increasing"},
    ]
    result = world.judge(shadow, acted_on, gates=gates)
    verdict, (champion, challenger) = result.verdict, world.versions
    assert verdict.winner == challenger
    flights, labels = data["flight"].to_pylist(), data["label"].to_pylist()
    for metrics, ref in (
        (verdict.champion_metrics, acted_on),
        (verdict.for_candidate(challenger).metrics, shadow),
    ):
        assert metrics["roc_auc"] == pytest.approx(roc_auc_score(labels, scores_of(store, ref, flights)), abs=1e-9)
    assert [gate.passed for gate in verdict.for_candidate(challenger).gates] == [True] * 5
    assert verdict.live.model_dump() == {"rows": 2_000, "unpaired": 0, "repeated": 0, "unlabelled": 0}
    assert "2,000 live rows" in result.summary
    evidence = open_dataset(store, verdict_ref(verdict))
    assert set(evidence.manifest.parents) == {acted_on.id, shadow.id}
    assert evidence.manifest.column_names == ["flight", *FEATURES, "label"]
    assert evidence.table().select(["flight", "label"]).equals(data.select(["flight", "label"]))
    promoted = promote.run(PromoteSpec(verdict=verdict), world.context)
    assert (promoted.promoted, promoted.champion) == (True, challenger)
    # The champion, judged on the same evidence as a challenger, loses.
    assert world.judge(shadow, acted_on, candidates=[champion]).verdict.winner is None


def verdict_ref(verdict):
    from airflow_mlops.core.references import DatasetRef

    return DatasetRef(name=verdict.dataset_name, id=verdict.dataset_id, rows=0)


def test_only_labelled_rows_that_both_have_predicted_once_count(world, store):
    data = world.rows(1_000)
    # The champion did not predict the last 100 rows, and the challenger did not predict the first 50. The order of the
    # rows differs.
    both = pa.concat_tables([data.slice(0, 900), data.slice(200, 10)])
    shuffled = data.slice(50).take(pa.array(np.random.default_rng(0).permutation(950)))
    no_labels = data.slice(300)
    acted_on = world.outcomes(both)
    shadow = world.outcomes(shuffled, labels=no_labels, alias="challenger")
    verdict = world.judge(acted_on, shadow, gates=[{"metric": "roc_auc", "min": 0.5}]).verdict
    # Ten of the rows 50 to 899 are in the champion's predictions twice, and 240 other rows have no label.
    assert verdict.live.model_dump() == {"rows": 600, "unpaired": 150, "repeated": 10, "unlabelled": 240}
    found = open_dataset(store, verdict_ref(verdict)).table()
    assert sorted(found["flight"].to_pylist()) == list(range(10_300, 10_900))
    keys, labels = found["flight"].to_pylist(), found["label"].to_pylist()
    for metrics, ref in ((verdict.champion_metrics, acted_on), (verdict.candidates[0].metrics, shadow)):
        assert metrics["roc_auc"] == pytest.approx(roc_auc_score(labels, scores_of(store, ref, keys)), abs=1e-9)
    assert "600 rows" in verdict.policy
    with pytest.raises(EvaluationError, match="no row"):
        world.judge(world.outcomes(data.slice(0, 100)), world.outcomes(data.slice(100, 100), alias="challenger"))


def test_several_windows_and_a_champion_that_changed_meanwhile(world, store):
    evidence = []
    for number, window in enumerate(("2013-04", "2013-05")):
        data = world.rows(3_000).slice(1_000 * number, 1_000)
        evidence += [world.outcomes(data, window=window), world.outcomes(data, window=window, version=2)]
        if not number:
            third = register(world.client, store_folder(store), training_set(store), (1, 1), model=world.model)
            world.client.set_registered_model_alias(world.model, "champion", str(third.version))
            world.versions[0] = third
    selections = [{"name": f"{world.model}{kind}_outcomes", "window": "2013-04..2013-05"} for kind in ("", "_shadow")]
    for given in (evidence, selections):
        verdict = world.judge(*given).verdict
        assert (verdict.champion, verdict.winner) == (third, world.versions[1])
        # The rows of April were predicted by the previous champion.
        assert verdict.live.model_dump() == {"rows": 1_000, "unpaired": 1_000, "repeated": 0, "unlabelled": 0}


def store_folder(store):
    from pathlib import Path

    return Path(store.url.removeprefix("file://")).parent / uuid.uuid4().hex


def test_evidence_that_cannot_be_compared_is_refused(world, store):
    data = world.rows(400)
    acted_on, shadow = world.outcomes(data), world.outcomes(data, alias="challenger")
    with pytest.raises(SpecError, match=f"no labelled predictions of {world.versions[0]}"):
        world.judge(shadow)
    ignoring = [{"champion": "ignore"}, {"metric": "roc_auc", "min": 0.5}]
    assert world.judge(shadow, gates=ignoring).verdict.winner == world.versions[1]
    with pytest.raises(SpecError, match=f"no labelled predictions of {world.versions[1]}"):
        world.judge(acted_on)
    flipped = data.set_column(3, "label", pa.array([not label for label in data["label"].to_pylist()]))
    with pytest.raises(SpecError, match="400 rows differ"):
        world.judge(acted_on, world.outcomes(data, labels=flipped, alias="challenger"))
    rows = write(store, f"raw_{world.model}", data)
    with pytest.raises(SpecError, match="labelled predictions"):
        world.judge(acted_on, rows)
    without_keys = world.outcomes(data, keys=(), alias="challenger")
    with pytest.raises(SpecError, match="keys"):
        world.judge(acted_on, without_keys)
    with pytest.raises(ValueError, match="evidence"):
        world.judge(acted_on, shadow, dataset={"name": "delays_training"})
    # Both versions were trained on these rows.
    known = held_out(rows=500, seed=1)
    with pytest.raises(SpecError, match=r"trained on 500 of the 500 rows"):
        world.judge(world.outcomes(known), world.outcomes(known, alias="challenger"))


def test_without_the_features_only_gates_that_need_the_model_fail(world):
    data = world.rows(500)
    private = {"drop_columns": ["wind"]}
    evidence = [world.outcomes(data, **private), world.outcomes(data, alias="challenger", **private)]
    assert world.judge(*evidence).verdict.winner == world.versions[1]
    with pytest.raises(Exception, match="wind"):
        world.judge(*evidence, gates=[{"max_latency_ms": 1_000}])


@pytest.mark.parametrize(("task", "metric"), [("multiclass", "accuracy"), ("regression", "rmse")])
def test_other_tasks(client, tmp_path, store, task, metric):
    world = World(client, tmp_path, store, task=task)
    data = world.rows(1_000)
    acted_on, shadow = world.outcomes(data), world.outcomes(data, alias="challenger")
    verdict = world.judge(acted_on, shadow, gates=[{"metric": metric, "better_than_champion_by": -1}]).verdict
    table = open_dataset(store, shadow).table()
    measured = verdict.candidates[0].metrics[metric]
    if task == "multiclass":
        assert measured == accuracy_score(table["label"].to_pylist(), table["prediction"].to_pylist())
    else:
        error = table["label"].to_numpy() - table["score"].to_numpy()
        assert measured == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert verdict.metric == metric
    place = data.column_names.index("wind")
    missing = data.set_column(place, "wind", pa.array([None, *data["wind"].to_pylist()[1:]]))
    evidence = world.outcomes(missing), world.outcomes(missing, alias="challenger")
    assert open_dataset(store, evidence[0]).table()["prediction"].null_count == 1
    with pytest.raises(EvaluationError, match="1 of 1,000 predictions"):
        world.judge(*evidence, gates=[{"metric": metric, "better_than_champion_by": -1}])


def test_a_purge_deletes_the_evidence_with_the_predictions(world, store):
    data = world.rows(100)
    verdict = world.judge(world.outcomes(data), world.outcomes(data, alias="challenger")).verdict
    done = purge.purge(
        PurgePredictionsSpec(model=world.model, older_than="1D"),
        store,
        open_dataset(store, verdict_ref(verdict)).manifest.created.replace(year=2100),
    )
    assert done.outcomes == 2
    with pytest.raises(DatasetPurgedError):
        open_dataset(store, verdict_ref(verdict)).table()


def test_evidence_of_skipped_tasks_does_not_become_an_evaluation_on_held_out_rows():
    from airflow_mlops.operators import EvaluateOperator

    for evidence in ([None, None], "", []):
        task = EvaluateOperator(task_id="evaluate", candidates=[{"model": "m", "version": 1}], evidence=evidence)
        with pytest.raises(SpecError, match="skipped"):
            task.build_spec({})
