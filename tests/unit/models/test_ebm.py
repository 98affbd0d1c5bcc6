"""Explainable Boosting Machines: training on unchanged features, reproducibility, explanations and plots."""

from __future__ import annotations

import sys
import textwrap
import warnings

import numpy as np
import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import explanation_plots as explanation
from airflow_mlops.models.explanation import Axis, Curve, Explanation, Surface, Term
from airflow_mlops.models.trainers import function
from airflow_mlops.models.trainers.sklearn import trainer as sklearn
from airflow_mlops.models.trainers.spec import FunctionTrainerSpec, SklearnTrainerSpec
from airflow_mlops.models.training_data import read_part
from tests.support.training import FEATURES, flights, training_set
from tests.unit.stages.evaluate.test_plots import drawn

EBM = "interpret.glassbox.ExplainableBoosting"
QUICK = {"max_rounds": 40, "outer_bags": 2, "n_jobs": 1}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


def read(store, task="binary", **options):
    return read_part(open_dataset(store, training_set(store, task=task, **options)), "train")


def fit(data, seed=0, **params):
    kind = "Regressor" if data.task == "regression" else "Classifier"
    return sklearn.fit(SklearnTrainerSpec(estimator=EBM + kind, params={**QUICK, **params}), data, seed)


def test_a_glass_box_is_fitted_to_unchanged_features(store):
    train = flights(300)
    # By default, InterpretML would treat these texts as numbers.
    train = train.set_column(train.schema.get_field_index("tail"), "tail", [[f"{row % 9:03d}" for row in range(300)]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(read(store, train=train))
    fitted = model.estimator
    assert fitted.feature_names_in_ == FEATURES
    assert fitted.feature_types_in_ == ["continuous", "continuous", "continuous", "nominal", "nominal"]
    assert sorted(fitted.bins_[4][0]) == [f"{number:03d}" for number in range(9)]
    assert "" in fitted.bins_[3][0]
    assert (model.params["preprocessing"], model.params["max_rounds"]) == ("none", 40)
    assert "interpret-core" in model.packages


def test_the_seed_determines_the_model(store):
    data = read(store)
    first, second, other = (fit(data, seed).predict(data.frame) for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


def test_preprocessing_is_refused(store):
    spec = SklearnTrainerSpec(estimator=f"{EBM}Classifier", params=QUICK, preprocessing="mine:make")
    with pytest.raises(SpecError, match="ExplainableBoostingClassifier .* Remove `preprocessing`"):
        sklearn.fit(spec, read(store), 0)


def test_the_error_without_interpretml_says_what_to_install(store, monkeypatch):
    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "interpret":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.partition(".")[0] == "interpret"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])
    with pytest.raises(SpecError, match=r"needs InterpretML.* airflow-mlops\[interpret\]"):
        fit(read(store))


def test_a_function_may_return_a_grid_search_of_glass_boxes(store, tmp_path, monkeypatch):
    (tmp_path / "my_glass.py").write_text(
        textwrap.dedent(
            """
            from interpret.glassbox import ExplainableBoostingClassifier
            from sklearn.model_selection import GridSearchCV

            def train(X, y, *, params, seed):
                types = ["nominal" if X[name].dtype == object else "continuous" for name in X]
                model = ExplainableBoostingClassifier(feature_types=types, random_state=seed, **params)
                return GridSearchCV(model, {"max_leaves": [2, 3]}, cv=2).fit(X, y)
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = read(store)
    model = function.fit(FunctionTrainerSpec(function="my_glass:train", params=QUICK), data, 0)
    assert model.to_onnx(data)
    assert model.explain(data).terms[0].curve


def test_other_estimators_have_no_explanation(store):
    data = read(store)
    spec = SklearnTrainerSpec(estimator="sklearn.linear_model.LogisticRegression")
    assert sklearn.fit(spec, data, 0).explain(data) is None


# Explanations


def places(axis: Axis, values) -> np.ndarray:
    """In which part of the axis each value lies; -1 where it is missing."""
    if axis.texts:
        return np.array([next(place for place, texts in enumerate(axis.texts) if value in texts) for value in values])
    found = np.clip(np.searchsorted(axis.edges, values, side="right") - 1, 0, len(axis.edges) - 2)
    return np.where(np.isnan(values), -1, found)


def scores(explained: Explanation, frame) -> np.ndarray:
    """The scores computed from only the explanation, shape (n, k)."""
    total = np.tile(explained.intercept, (len(frame), 1))
    for term in explained.terms:
        if term.curve:
            table = np.column_stack([term.curve.scores, term.curve.missing or [np.nan] * len(explained.outputs)])
            total += table[:, places(term.curve.axis, frame[term.features[0]].to_numpy())].T
        else:
            sides = term.surface.first, term.surface.second
            total[:, 0] += np.array(term.surface.scores)[
                tuple(places(side, frame[side.feature].to_numpy()) for side in sides)
            ]
    return total


@pytest.mark.parametrize(("task", "interactions"), [("binary", 5), ("regression", 5), ("multiclass", 0)])
def test_the_terms_add_up_to_the_model(store, task, interactions):
    data = read(store, task)
    model = fit(data, interactions=interactions)
    explained = Explanation.model_validate_json(model.explain(data).model_dump_json())
    assert len(explained.terms) == 5 + interactions
    known = data.frame
    if interactions:
        # A surface does not contain the contribution of missing values.
        known = known[known["distance"].notna()]
    fitted = model.estimator
    expected = fitted.predict(known) if task == "regression" else fitted.decision_function(known)
    # Edges are rounded to six digits, so a value may lie between an edge and its rounded form.
    close = np.isclose(scores(explained, known), np.reshape(expected, (len(known), -1)), atol=1e-4).all(axis=1)
    assert close.mean() > 0.99
    outputs = {"binary": [1], "regression": ["late"], "multiclass": ["early", "late", "on time"]}
    units = {
        "binary": "log-odds of late = 1",
        "regression": "late",
        "multiclass": "score of each class of late (softmax)",
    }
    assert (explained.outputs, explained.unit) == (outputs[task], units[task])


def test_importances_equal_those_of_interpretml_and_are_sorted(store):
    data = read(store)
    model = fit(data)
    explained = model.explain(data)
    expected = dict(zip(model.estimator.term_names_, model.estimator.term_importances(), strict=True))
    assert {term.name: term.importance for term in explained.terms} == pytest.approx(expected, rel=1e-4)
    sizes = [term.importance for term in explained.terms]
    assert sizes == sorted(sizes, reverse=True)
    shown = [term.curve is not None or term.surface is not None for term in explained.terms]
    assert shown == [True] * 12 + [False] * (len(shown) - 12)
    carrier = next(term.curve for term in explained.terms if term.name == "carrier")
    counts = data.frame["carrier"].value_counts()
    assert dict(zip((text for (text,) in carrier.axis.texts), carrier.rows, strict=True)) == counts.to_dict()


# Plots


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_plots_are_written(store, task, tmp_path):
    data = read(store, task)
    explanation.write(tmp_path, fit(data).explain(data))
    assert sorted(file.name for file in tmp_path.glob("*.*")) == ["explanation.json", "shapes.png", "terms.png"]
    assert all(drawn(tmp_path / f"{name}.png") for name in ("terms", "shapes"))


def test_odd_names_few_values_and_many_classes_are_drawn(tmp_path):
    classes = [rf"$\x{number}$" for number in range(9)]
    one = Axis(feature=r"$\x$", edges=[3.0, 3.0])
    texts = Axis(feature=r"$\y$", texts=[[rf"$\z{number}$ <&>" * 3] for number in range(30)])
    many = {"errors": [[0.1]] * 9, "rows": [5.0], "missing": [0.5] * 9}
    curve = Curve(axis=one, scores=[[float(number)] for number in range(9)], **many)
    surface = Surface(first=one, second=texts, scores=[[0.0] * 30])
    terms = [
        Term(name=r"$\x$", features=[r"$\x$"], importance=2.0, curve=curve),
        Term(name=r"$\x$ & $\y$", features=[r"$\x$", r"$\y$"], importance=1.0, surface=surface),
    ]
    files = explanation.draw(tmp_path, Explanation(unit=r"$\a_$", outputs=classes, intercept=[0.0] * 9, terms=terms))
    assert [file.stem for file in files] == ["terms", "shapes"]
    assert all(drawn(file) for file in files)
    alone = [Term(name="a & b & c", features=["a", "b", "c"], importance=0.0)]
    files = explanation.draw(tmp_path, Explanation(unit="u", outputs=["u"], intercept=[0.0], terms=alone))
    assert [file.stem for file in files] == ["terms"]
