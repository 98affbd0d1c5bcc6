"""Training: preprocessing by column type, invalid training data, the user's own functions."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core import imports
from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import ModelFormatError, SchemaError, SpecError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.trainers import function
from airflow_mlops.models.trainers.sklearn import preprocessing
from airflow_mlops.models.trainers.sklearn import trainer as sklearn
from airflow_mlops.models.trainers.spec import check_trainer
from airflow_mlops.models.training_data import check_parts, read_part
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import FunctionTrainer, SklearnTrainer
from tests.support.training import FEATURES, flights, training_set

HGB, LOGISTIC = "sklearn.ensemble.HistGradientBoostingClassifier", "sklearn.linear_model.LogisticRegression"


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


def read(store, **options):
    """The two parts as a training reads them."""
    dataset = open_dataset(store, training_set(store, **options))
    train, test = read_part(dataset, "train"), read_part(dataset, "test")
    check_parts(dataset, {"train": train, "test": test})
    return train, test


def spec(trainer) -> object:
    fields = {"dataset": {"name": "d", "id": "0", "rows": 1}, "model": "late", "trainer": trainer}
    return parse(TrainSpec, fields, "Task 't'").trainer


def fitted(store, trainer, **options):
    train, test = read(store, **options)
    chosen = spec(trainer)
    module = {"sklearn": sklearn, "function": function}[chosen.kind]
    return module.fit(chosen, train, 0), train, test


def replaced(table: pa.Table, name: str, values) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


# Trainers in DAG files


def test_trainers_are_json_and_survive_copies():
    for trainer in (
        SklearnTrainer(LOGISTIC, {"C": 0.1}, name="small"),
        FunctionTrainer("mine:train", {"depth": 3}, trusted_types=("mine.T",)),
    ):
        again = json.loads(json.dumps(trainer))
        assert again == trainer
        assert pickle.loads(pickle.dumps(trainer)) == trainer
        assert spec(again) == spec(trainer)


def test_a_plain_dict_is_a_trainer():
    assert spec({"estimator": LOGISTIC, "params": {"C": 1}}).kind == "sklearn"
    assert spec({"function": "mine:train"}).kind == "function"


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({}, "estimator: Field required"),
        ({"estimator": "LogisticRegression"}, "estimator: String should match pattern"),
        ({"estimator": LOGISTIC, "parms": {}}, "parms: Extra inputs are not permitted"),
        ({"function": "mine:train", "serialization": "pickle"}, "serialization: Input should be 'skops' or"),
    ],
)
def test_a_mistake_in_a_trainer_is_named(trainer, message):
    with pytest.raises(SpecError, match=message):
        check_trainer(trainer, "The trainer of task 'train'")


def test_trainers_import_nothing_heavy():
    code = (
        "import sys, airflow_mlops.trainers, airflow_mlops.stages.train.spec\n"
        "print([name for name in ('numpy', 'pandas', 'sklearn', 'mlflow', 'pyarrow', 'onnx') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


# Invalid training data


def test_infinite_values_are_refused_with_the_column_and_the_number_of_rows(store):
    train = flights(100)
    distance = train["distance"].to_numpy().copy()
    distance[[3, 5]] = [np.inf, -np.inf]
    with pytest.raises(TrainingError, match=r"Split part 'train' .* infinite values.*'distance' \(2 rows\)"):
        read(store, train=replaced(train, "distance", distance))
    distance[[3, 5]] = [1e300, 0]
    with pytest.raises(TrainingError, match=r"Split part 'test' .* 'distance' \(1 row\)"):
        read(store, test=replaced(train, "distance", distance))


def test_a_feature_without_any_value_is_refused(store):
    train = flights(50)
    with pytest.raises(
        TrainingError, match="'late_training' has only nulls in split part 'train' for the feature 'tail'"
    ):
        read(store, train=replaced(train, "tail", pa.nulls(50, pa.string())))
    with pytest.raises(TrainingError, match="'late_training' has only nulls .* for the feature 'distance'"):
        read(store, train=replaced(train, "distance", np.full(50, np.nan)))


def test_one_class_is_refused(store):
    with pytest.raises(
        TrainingError, match="All 100 rows of split part 'train' of training set 'late_training' have the label 0"
    ):
        read(store, train=replaced(flights(100), "late", [False] * 100))


def test_a_class_that_only_the_held_out_part_has_is_accepted_among_several(store):
    train = flights(100, "multiclass")
    labels = ["early" if value == "late" else value for value in train["late"].to_pylist()]
    read(store, train=replaced(train, "late", labels), task="multiclass")
    words = {"early": "a", "late": "b", "on time": "c"}
    labels = [words[value] for value in train["late"].to_pylist()]
    with pytest.raises(TrainingError, match="No label of split part 'train' .* occurs in another split part"):
        read(store, train=replaced(train, "late", labels), task="multiclass")
    binary = flights(100)
    with pytest.raises(TrainingError, match="Split part 'test' .* has the label 0, which does not occur"):
        read(store, train=replaced(binary, "late", [1, 2] * 50), test=replaced(flights(50), "late", [0, 1] * 25))


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        ([None, True] * 25, "binary", "Label 'late' in split part 'train' of 'late_training' is null in 25 of 50 rows"),
        ([0.5, 1.0] * 25, "binary", "has non-integer values, but the ML task is binary"),
        ([0, 1, 2, 1, 0] * 10, "binary", "has 3 classes, but the ML task is binary"),
        ([1.0, float("nan")] * 25, "regression", "is NaN or infinite in 25 of 50 rows"),
        ([1.0, -1e300] * 25, "regression", "is beyond single precision .* in 25 of 50 rows"),
        (["1", "x"] * 25, "regression", "has the type string, which cannot be the label of a regression task"),
        (
            [2**53 + 1, 1] * 25,
            "binary",
            "contains 9007199254740993, but double precision represents integers exactly only up to 2.*to text.$",
        ),
        ([-(2**60) - 1, *range(49)], "regression", "contains -1152921504606846977, but .* Rescale the label.$"),
        (
            [2.0**64, 1.0] * 25,
            "binary",
            "contains 1.84467e\\+19, which is too large for a class. Convert the label to text.$",
        ),
    ],
)
def test_invalid_labels_are_refused(store, values, task, message):
    with pytest.raises(TrainingError, match=message):
        data = replaced(flights(50), "late", values)
        read(store, train=data, test=data, task=task)


@pytest.mark.parametrize("values", [[False, True], [0, 1], [0.0, 1.0]])
def test_binary_labels_of_any_type_become_zero_and_one(store, values):
    data = replaced(flights(50), "late", values * 25)
    train, _ = read(store, train=data, test=data)
    assert train.labels.dtype == np.int64
    assert train.classes == [0, 1]


def test_other_datasets_are_refused(store):
    with pytest.raises(TrainingError, match="Dataset 'late_training' is not a training set"):
        read(store, label=None)
    with pytest.raises(SchemaError, match="no column 'wind'"):
        read(store, features=["wind"])
    train = flights(50).append_column("when", pa.array([0] * 50, pa.timestamp("us")))
    with pytest.raises(SchemaError, match="Feature 'when' has the type timestamp"):
        read(store, train=train, test=train, features=["when"])


# Preprocessing


def test_trees_get_ordinal_codes_and_others_one_hot_columns_of_the_frequent_texts(store):
    tree, train, _ = fitted(store, SklearnTrainer(HGB))
    assert tree.estimator[0].transform(train.frame).shape == (600, 5)
    linear, train, _ = fitted(store, SklearnTrainer(LOGISTIC))
    tails = min(train.frame["tail"].nunique(), preprocessing.MAX_CATEGORIES)
    carriers = train.frame["carrier"].nunique()
    assert carriers == 4  # missing text is a category of its own
    assert linear.estimator[0].transform(train.frame).shape == (600, 3 + carriers + tails)


def test_the_most_frequent_texts_are_kept_and_ties_are_broken_by_name(store, monkeypatch):
    monkeypatch.setattr(preprocessing, "MAX_CATEGORIES", 3)
    tails = ["d"] * 40 + ["b"] * 30 + ["c"] * 30 + ["a"] * 30 + ["e"] * 20
    model, _, _ = fitted(store, SklearnTrainer(LOGISTIC), train=replaced(flights(150), "tail", tails))
    encoder = model.estimator[0].named_transformers_["text 1"]
    assert list(encoder.categories_[0]) == ["a", "b", "d"]


def test_missing_numbers_are_imputed_only_for_estimators_that_do_not_support_them(store):
    boosted, train, _ = fitted(store, SklearnTrainer(HGB))
    assert np.isnan(boosted.estimator[0].transform(train.frame)).any()
    forest, train, _ = fitted(store, SklearnTrainer("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 2}))
    assert not np.isnan(forest.estimator[0].transform(train.frame)).any()


@pytest.mark.parametrize("estimator", ["naive_bayes.GaussianNB", "neighbors.KNeighborsClassifier"])
def test_estimators_without_support_for_sparse_columns_get_dense_ones(store, estimator):
    model, train, test = fitted(store, SklearnTrainer(f"sklearn.{estimator}"))
    found, expected = answers(model, train, test), model.predict(test.frame)
    # Either of two equally distant neighbours may be the fifth.
    assert np.isclose(found, expected, atol=1e-4).all(axis=1).mean() > 0.99


def test_the_seed_becomes_random_state_unless_params_set_it(store):
    train, _ = read(store)
    forest = "sklearn.ensemble.RandomForestClassifier"
    assert sklearn.fit(spec(SklearnTrainer(forest, {"n_estimators": 2})), train, 7).params["random_state"] == 7
    own = sklearn.fit(spec(SklearnTrainer(forest, {"n_estimators": 2, "random_state": 3})), train, 7)
    assert own.params["random_state"] == 3


@pytest.mark.parametrize(
    ("trainer", "kind", "message"),
    [
        ({"estimator": "sklearn.nowhere.Model"}, SpecError, "there is no module 'sklearn.nowhere'"),
        ({"estimator": "sklearn.linear_model.Nothing"}, SpecError, "module 'sklearn.linear_model' .* 'Nothing'"),
        (
            {"estimator": "sklearn.model_selection.TunedThresholdClassifierCV", "params": {"estimator": "x"}},
            SpecError,
            "'sklearn.model_selection.TunedThresholdClassifierCV' with params=.* must be an estimator, .* FunctionTrainer",
        ),
        (
            {"estimator": LOGISTIC, "params": {"c": 1}},
            SpecError,
            "cannot be created with .* unexpected keyword argument 'c'",
        ),
        ({"estimator": LOGISTIC, "params": {"C": -1}}, TrainingError, "Fitting .* to 600 rows and 5 features"),
        (
            {"estimator": "sklearn.linear_model.Ridge"},
            TrainingError,
            "is not a classifier, but the label 'late' has classes",
        ),
        ({"estimator": "sklearn.svm.LinearSVC"}, TrainingError, "has no predict_proba"),
        ({"function": "tests.unit.my_trainers:nothing"}, SpecError, "there is no module 'tests.unit.my_trainers'"),
    ],
)
def test_invalid_estimators_and_functions_are_refused(store, trainer, kind, message):
    with pytest.raises(kind, match=message):
        fitted(store, trainer)


# The user's own functions


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's module, in the folder of the DAGs."""
    (tmp_path / "my_trainers.py").write_text(
        textwrap.dedent("""
        import numpy as np
        from sklearn.base import BaseEstimator, ClassifierMixin
        from sklearn.compose import make_column_transformer
        from sklearn.linear_model import LinearRegression, LogisticRegression
        from sklearn.model_selection import GridSearchCV
        from sklearn.multioutput import ClassifierChain
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

        def train(X, y, *, params, seed):
            numbers = make_column_transformer((StandardScaler(), ["hour", "weekend"]))
            return make_pipeline(numbers, LogisticRegression(random_state=seed, **params)).fit(X, y)

        def bare(X, y, *, params, seed):
            return LogisticRegression().fit(X, y)

        def searched(X, y, *, params, seed):
            return GridSearchCV(train(X, y, params={}, seed=seed), {"logisticregression__C": [0.1, 1.0]}, cv=2).fit(X, y)

        def with_function(X, y, *, params, seed):
            numbers = make_column_transformer((FunctionTransformer(double), ["hour"]))
            return make_pipeline(numbers, LogisticRegression()).fit(X, y)

        def double(X):
            return 2 * X

        def other_arguments(X, y):
            return None

        def fails(X, y, *, params, seed):
            raise ValueError("too little coffee")

        def returns_nothing(X, y, *, params, seed):
            return None

        def other_labels(X, y, *, params, seed):
            return LogisticRegression().fit(X[["hour"]], np.where(y, "yes", "no"))

        def several_labels(X, y, *, params, seed):
            return ClassifierChain(LogisticRegression()).fit(X[["hour"]], np.column_stack([y, X["weekend"]]))

        def several_values(X, y, *, params, seed):
            pipeline = make_pipeline(make_column_transformer((StandardScaler(), ["hour"])), LinearRegression())
            return pipeline.fit(X, np.column_stack([y, -y]))

        def preprocess(numeric, categorical):
            assert numeric == ["distance", "hour", "weekend"] and categorical == ["carrier", "tail"]
            return make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["carrier"]))
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "my_trainers.py"
    sys.modules.pop("my_trainers", None)


def answers(model, train, test):
    """Probabilities of the ONNX export for the held-out rows."""
    from onnxruntime import InferenceSession

    session = InferenceSession(model.to_onnx(train))
    kinds = {"tensor(float)": np.float32, "tensor(string)": object}
    feeds = {
        item.name: test.frame[item.name].to_numpy().astype(kinds[item.type]).reshape(-1, 1)
        for item in session.get_inputs()
    }
    return session.run(None, feeds)[1]


def test_a_model_fitted_by_a_users_function_is_exported(store, mine):
    model, train, test = fitted(store, FunctionTrainer("my_trainers:train", {"C": 0.5}))
    assert model.name == "train"
    assert model.params == {"function": "my_trainers:train", "C": 0.5}
    np.testing.assert_allclose(answers(model, train, test), model.predict(test.frame), atol=1e-5)


@pytest.mark.parametrize(("name", "features"), [("bare", ["hour", "weekend"]), ("searched", FEATURES)])
def test_a_bare_estimator_and_the_best_of_a_grid_search_are_exported(store, mine, name, features):
    model, train, test = fitted(store, FunctionTrainer(f"my_trainers:{name}"), features=features)
    np.testing.assert_allclose(answers(model, train, test), model.predict(test.frame), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("missing", SpecError, "module 'my_trainers' .* 'missing'"),
        ("other_arguments", SpecError, r"does not have the signature \(X, y, \*, params, seed\)"),
        ("fails", TrainingError, "raised ValueError: too little coffee"),
        ("returns_nothing", TrainingError, "NoneType, which has no predict_proba"),
        ("other_labels", TrainingError, r"fitted to the classes \['no', 'yes'\], but .* the labels \[0, 1\]"),
        ("several_labels", TrainingError, "predicts 2 labels for each row.*one model for each label"),
    ],
)
def test_functions_that_fail_are_refused(store, mine, name, kind, message):
    with pytest.raises(kind, match=message):
        fitted(store, FunctionTrainer(f"my_trainers:{name}"))


def test_a_regression_of_several_labels_is_refused(store, mine):
    model, _, test = fitted(store, FunctionTrainer("my_trainers:several_values"), task="regression")
    with pytest.raises(TrainingError, match="predicts 2 labels for each row.*one model for each label"):
        model.predict(test.frame)


def test_a_users_preprocessing_replaces_the_built_in_one(store, mine):
    model, train, _ = fitted(store, SklearnTrainer(LOGISTIC, preprocessing="my_trainers:preprocess"))
    assert model.estimator[0].transform(train.frame).shape == (600, 4)
    assert set(model.sources) == {LOGISTIC, "my_trainers:preprocess"}


def test_the_error_about_an_unsupported_estimator_says_what_to_do(store, mine):
    model, train, _ = fitted(store, SklearnTrainer("sklearn.semi_supervised.LabelPropagation", {"kernel": "knn"}))
    with pytest.raises(ModelFormatError, match="LabelPropagation cannot be exported to ONNX.*skl2onnx supports"):
        model.to_onnx(train)


def test_unknown_types_are_refused_unless_they_are_trusted(store, mine):
    model, _, _ = fitted(store, FunctionTrainer("my_trainers:with_function"))
    with pytest.raises(ModelFormatError, match=r"set trusted_types=\['my_trainers.double'\] in the trainer"):
        model._trusted_types()
    named, _, _ = fitted(store, FunctionTrainer("my_trainers:with_function", trusted_types=["my_trainers.double"]))
    assert "my_trainers.double" in named._trusted_types()


def test_the_code_hash_changes_with_the_source(mine):
    before = imports.source_hash(imports.load("my_trainers:train", "function"))
    assert imports.source_hash(imports.load("my_trainers.train", "function")) == before
    mine.write_text(mine.read_text() + "\n# changed")
    assert imports.source_hash(imports.load("my_trainers:train", "function")) != before


def test_the_commit_of_a_checkout_is_found(mine):
    function = imports.load("my_trainers:train", "function")
    assert imports.git_commit(function) is None
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "my_trainers.py"], ["commit", "-qm", "mine"]):
        subprocess.run([*git, *command], cwd=mine.parent, check=True)
    assert len(imports.git_commit(function)) == 40
    assert imports.git_commit(np.asarray) is None


def test_training_sees_the_values_in_the_precision_of_scoring(store):
    train, _ = read(store)
    seen = frame(train.table, train.features)
    assert list(seen.columns) == FEATURES
    distance = train.table["distance"].to_numpy()
    np.testing.assert_array_equal(seen["distance"], distance.astype(np.float32).astype(np.float64))
    assert set(seen["carrier"]) == {"AA", "B6", "UA", ""}
    assert set(seen["weekend"]) == {0.0, 1.0}
