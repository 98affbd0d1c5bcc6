"""``SklearnTrainer(batch_rows=...)`` streams the rows to the estimator's ``partial_fit``."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.core.imports import load
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.datasets.reader import Dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.trainers.sklearn import trainer as sklearn
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec, check_trainer
from airflow_mlops.models.training_data import copy_of_first, read_part
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.candidate import fit_candidate, load_data
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import SklearnTrainer
from tests.support.killing import Killed
from tests.support.training import FEATURES, flights, timed, training_set

SGD, REGRESSOR = "sklearn.linear_model.SGDClassifier", "sklearn.linear_model.SGDRegressor"
LOG_LOSS = {"loss": "log_loss"}
NUMBERS = ["distance", "hour", "weekend"]


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path.as_uri())


def batched(estimator=SGD, params=LOG_LOSS, **fields):
    return SklearnTrainer(estimator, params, **{"batch_rows": 100, **fields})


def fit(store, trainer, ref=None, **fields):
    spec = TrainSpec(dataset=ref or training_set(store), model="late", trainer=trainer, **fields)
    context = StepContext(store, "results/t.json")
    dataset, train, test = load_data(spec, store)
    return fit_candidate(spec, context, dataset, train, test, unlogged_run(context, dataset))


def scaled(numeric, categorical):
    from sklearn.preprocessing import MinMaxScaler

    return MinMaxScaler()


def dense(numeric, categorical):
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import StandardScaler

    return ColumnTransformer([("numbers", StandardScaler(), numeric)])


def test_the_model_is_that_of_partial_fit_on_the_same_batches(store):
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import SGDClassifier

    # The large first steps of the default learning rate would amplify rounding errors.
    steady = {**LOG_LOSS, "learning_rate": "constant", "eta0": 0.05}
    found = fit(store, batched(params=steady, epochs=2), seed=5)
    data = read_part(open_dataset(store, training_set(store)), "train")
    frame, labels = data.frame, data.labels
    # By hand: means and standard deviations of the values, and one column for each text.
    means, deviations = frame[NUMBERS].mean(), frame[NUMBERS].std(ddof=0)
    columns = [(frame[NUMBERS].fillna(means) - means) / deviations]
    for name in ("carrier", "tail"):
        counts = frame[name].value_counts()
        texts = sorted(sorted(counts.index, key=lambda text: (-counts[text], text))[:100])
        columns.append(pd.DataFrame({text: frame[name] == text for text in texts}))
    # SGDClassifier treats the intercept of sparse inputs differently. One-hot columns make the inputs sparse.
    inputs = csr_matrix(pd.concat(columns, axis=1).to_numpy(np.float64))
    expected = SGDClassifier(**steady, random_state=5)
    random, passes = np.random.default_rng((5, 2**32 + 2)), []
    for _ in range(2):
        for batch in random.permutation(6):
            rows = batch * 100 + random.permutation(100)
            expected.partial_fit(inputs[rows], labels[rows], classes=[0, 1])
            passes.append(rows)
    np.testing.assert_allclose(found.model.estimator[-1].coef_, expected.coef_, rtol=1e-9, atol=1e-12)
    # Each row is seen once in each epoch, in another order.
    np.testing.assert_array_equal(np.sort(np.concatenate(passes[:6])), np.arange(600))
    assert found.model.params["epochs"] == 2
    assert found.contract.parity.max_difference < 1e-5
    assert found.metrics["roc_auc"] > 0.7
    # Rows in memory, as in a search, give the same model.
    memory = sklearn.fit(SklearnTrainerSpec(**batched(params=steady, epochs=2)), data, 5)
    np.testing.assert_array_equal(memory.estimator[-1].coef_, found.model.estimator[-1].coef_)


class Own:
    """An object that skops does not trust."""


UNTRUSTED = (
    f"No checkpoints are written, because skops does not trust the type '{__name__}.Own' of SGDClassifier. A retry starts "
    "again. To write checkpoints, review the code and extend `trusted_types` of the trainer."
)
UNSTORABLE = "No checkpoints are written, because skops cannot store SGDClassifier (TypeError: cannot pickle 'generator' object), so a retry starts again."


@pytest.mark.parametrize(
    ("estimator", "params", "foreign", "reason"),
    [
        (SGD, {**LOG_LOSS, "average": True}, None, None),
        ("sklearn.neural_network.MLPClassifier", {"hidden_layer_sizes": [4]}, None, None),
        (SGD, LOG_LOSS, Own, UNTRUSTED),
        (SGD, LOG_LOSS, lambda: (n for n in ()), UNSTORABLE),
    ],
    ids=["linear", "network", "untrusted", "unstorable"],
)
def test_a_retry_continues_after_the_last_complete_epoch(
    store, monkeypatch, caplog, estimator, params, foreign, reason
):
    trainer, ref = batched(estimator, params, epochs=3), training_set(store)
    caplog.set_level("INFO", "airflow_mlops.stages")
    kind = load(estimator, "estimator")
    real, calls = kind.partial_fit, []

    def counted(self, *arguments, **given):
        calls.append(1)
        if len(calls) == 15:
            raise Killed
        if foreign is not None:
            self.note = foreign()
        return real(self, *arguments, **given)

    expected = fit(store, trainer, ref, seed=5)
    # The step deletes the checkpoint of a training that is complete.
    store.delete("checkpoints/results/t.pt")
    monkeypatch.setattr(kind, "partial_fit", counted)
    with pytest.raises(Killed):
        fit(store, trainer, ref, seed=5)
    # The training was killed in the third epoch, in which each of the 6 batches is used again.
    calls[:] = [1] * 20
    found = fit(store, trainer, ref, seed=5)
    assert len(calls) - 20 == (6 if reason is None else 18)
    said = {message for message in caplog.messages if message.startswith("No checkpoints")}
    assert [message[: len(reason)] for message in said] == [reason] if reason else not said
    data = read_part(open_dataset(store, ref), "test").frame
    np.testing.assert_array_equal(found.model.predict(data), expected.model.predict(data))


def test_only_one_batch_is_in_memory_and_the_files_do_not_matter(store, monkeypatch):
    sizes, real = [], Dataset.batches

    def watched(self, part=None, columns=None, batch_rows=65_536, span=None):
        for batch in real(self, part, columns, batch_rows, span):
            if part == "train" and columns and set(FEATURES) <= set(columns):
                sizes.append(batch.num_rows)
            yield batch

    one = training_set(store, flights(600, "regression", seed=1), task="regression")
    with DatasetWriter(store, "late_training") as writer:
        for first in range(0, 600, 70):
            writer.write(flights(600, "regression", seed=1).slice(first, 70), "train")
        writer.write(flights(300, "regression", seed=2), "test")
        details = {"label": "late", "task": "regression", "features": FEATURES, "timestamp": None, "keys": ["flight"]}
        split = writer.commit(details=details)[0].ref
    monkeypatch.setattr(Dataset, "batches", watched)
    monkeypatch.setattr(Dataset, "table", lambda self, part, columns=None: _only(real, self, part, columns))
    found = [fit(store, batched(REGRESSOR, {}, batch_rows=64), ref).exported for ref in (one, split)]
    assert found[0] == found[1]
    assert sizes
    assert max(sizes) == 64


def _only(real, dataset, part, columns):
    # The training rows are never read at once, except for their labels.
    assert part != "train" or list(columns) == ["late"]
    return pa.Table.from_batches(real(dataset, part, columns)).select(columns)


def test_weights_and_rows_that_are_set_aside_belong_to_the_right_rows(store):
    newest = np.argsort(np.argsort(timed(500, 1)["at"].to_numpy())) >= 400
    weights = np.where(newest, 7.0, np.arange(500.0) % 3)
    rows, test = timed(500, 1).append_column("w", [weights]), timed(200, 2).append_column("w", [np.ones(200)])
    ref = training_set(store, rows, test, timestamp="at")
    found = fit(store, batched(batch_rows=10_000), ref, threshold={"maximise": "f1"}, sample_weight="w")
    kept = training_set(store, rows.filter(pa.array(~newest)), test, timestamp="at")
    alone = fit(store, batched(batch_rows=10_000), kept, sample_weight="w")
    np.testing.assert_array_equal(found.model.estimator[-1].coef_, alone.model.estimator[-1].coef_)
    # A row with the weight 0 is the same as no row, for the share of its class.
    light = fit(store, batched(epochs=20), ref, class_weight={"1": 0.01})
    assert light.predictions.score.mean() < 0.1 < fit(store, batched(epochs=20), ref).predictions.score.mean()


def test_a_transformer_of_the_user_needs_partial_fit(store):
    numbers = training_set(store, features=NUMBERS[1:])
    found = fit(store, batched("sklearn.naive_bayes.MultinomialNB", {}, preprocessing=f"{__name__}:scaled"), numbers)
    assert found.model.estimator[0].data_min_.tolist() == [5, 0]
    assert found.contract.parity.max_difference < 1e-5
    with pytest.raises(SpecError, match="ColumnTransformer"):
        fit(store, batched(preprocessing=f"{__name__}:dense"), numbers)


def test_an_estimator_without_partial_fit_is_refused_before_rows_are_read(store, monkeypatch):
    ref = training_set(store)
    monkeypatch.setattr(Dataset, "table", None)
    with pytest.raises(SpecError, match="LogisticRegression has no partial_fit"):
        fit(store, batched("sklearn.linear_model.LogisticRegression", {}), ref)
    monkeypatch.undo()
    with pytest.raises(SpecError, match="MLPClassifier has no partial_fit"):
        fit(store, batched("sklearn.neural_network.MLPClassifier", {"solver": "lbfgs"}), ref)


def test_batches_without_values_are_left_out_and_weights_that_are_not_accepted_are_refused(store):
    # Only the last batch has a value.
    rows = flights(600, seed=1).append_column("none", pa.array([None] * 599 + [1.0]))
    test = flights(300, seed=2).append_column("none", pa.array([1.0] * 300))
    ref = training_set(store, timed(500, 1).append_column("w", [np.ones(500)]), timed(200, 2).append_column("w", [np.ones(200)]))  # fmt: skip
    found = fit(store, batched(), training_set(store, rows, test, features=["hour", "none"]))
    assert found.model.estimator[0].named_transformers_["numbers"][0].statistics_[1] == 1
    from sklearn.linear_model import SGDClassifier

    real = SGDClassifier.partial_fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGDClassifier, "partial_fit", lambda self, inputs, y, classes: real(self, inputs, y, classes))
        with pytest.raises(TrainingError, match="does not accept sample_weight"):
            fit(store, batched(), ref, sample_weight="w")


def test_contributions_that_would_be_relative_to_the_means_of_some_rows_are_not_stored(store):
    ref = training_set(store, task="regression")
    assert fit(store, SklearnTrainer(REGRESSOR), ref).model._terms is not None
    assert fit(store, batched(REGRESSOR, {}), ref).model._terms is None


@pytest.mark.parametrize("fields", [{"epochs": 2}, {"batch_rows": 5, "max_rows": 5}, {"batch_rows": 0}])
def test_fields_that_exclude_each_other_are_refused_when_the_dag_is_parsed(fields):
    with pytest.raises(SpecError, match=next(iter(fields))):
        check_trainer(SklearnTrainer(SGD, **fields), "The trainer")


def test_rows_that_are_checked_before_the_training_keep_no_other_rows_in_memory():
    rows = pa.record_batch({"x": np.arange(100_000.0), "text": ["some text"] * 100_000})
    found = copy_of_first(rows, 10)
    assert found.equals(rows.slice(0, 10))
    assert found.get_total_buffer_size() < 10_000 < rows.slice(0, 10).get_total_buffer_size()
    assert copy_of_first(rows, 200_000).equals(rows)
