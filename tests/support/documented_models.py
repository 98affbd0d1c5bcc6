"""A small model of every kind that docs/your-own-model.md lists, and the list itself, which is read from the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import Task
from airflow_mlops.trainers import (
    CatBoostTrainer,
    FunctionTrainer,
    LightGBMTrainer,
    SklearnTrainer,
    TorchTrainer,
    XGBoostTrainer,
)
from tests.support.training import FEATURES, flights, stamped
from tests.support.transformers import reviews

PAGE = Path(__file__).parents[2] / "docs" / "your-own-model.md"
NUMERIC = ("distance", "hour", "weekend")
WIDE = tuple(f"sensor {number}" for number in range(70))

#: Sections of the page that describe no kind of model of their own.
OTHER_SECTIONS = {
    "## A search for parameters",
    "## On a cluster of Ray",
    "## Custom metrics",
    "## A model from elsewhere",  # Versions that TrainOperator did not train are not served.
    "## Requirements",
}
#: Kinds of models whose training runs a process of its own. The test of this training also tests their scores.
TESTED_WITH_THEIR_TRAINING = {
    "## A notebook": "tests/integration/stages/test_notebook.py",
    "## An MLflow Project": "tests/integration/stages/test_project.py",
}


@dataclass(frozen=True)
class Case:
    """A small model.

    :param trainer: the trainer
    :param task: the ML task
    :param covers: entries of :func:`documented` that the model stands for
    :param features: names of the features
    :param rows: function ``(rows, task, seed)`` that returns a table with the features and the label ``late``
    :param options: further fields of TrainSpec
    :param count: number of training rows
    """

    trainer: dict[str, Any]
    task: Task = "binary"
    covers: Sequence[str] = ()
    features: Sequence[str] = tuple(FEATURES)
    rows: Callable[[int, str, int], pa.Table] = flights
    options: dict[str, Any] = field(default_factory=dict)
    count: int = 200


def documented(text: str) -> set[str]:
    """Return the kinds of models on the page.

    These are its sections; the rows of its tables of objectives, as ``TRAINER OBJECTIVE``; the objects that a training
    function may return; and the estimators that it names by their import path, or in its list of supported estimators.
    A name of this list without ``Classifier`` or ``Regressor`` stands for both.
    """
    found = {line for line in text.splitlines() if line.startswith("## ")} - OTHER_SECTIONS
    for section in ("Counts and positive amounts", "Quantiles", "Rankings"):
        for first, *cells in _table(text, section):
            trainer = first.replace("`", "").rpartition(".")[2] if first.startswith("`") else first
            for cell in cells:
                codes = re.findall(r"`([^`]+)`", cell)
                # In the other tables, the codes after the first are further parameters of one objective.
                found |= {f"{trainer} {code}" for code in (codes if section == "Rankings" else codes[:1])}
    found |= {
        re.split(r"[,(:]", first.replace("`", ""))[0].strip()
        for first, *_ in _table(text, "A custom training function")
    }
    found |= set(re.findall(r"\b(?:sklearn|interpret)(?:\.\w+)+\.([A-Z]\w+)", text))
    listed = text.split("were not slower:")[1].split("scikit-learn deprecates")[0]
    for name in re.findall(r"\b[A-Z]\w+", listed):
        found |= _estimators(name)
    return found


def _table(text: str, section: str) -> list[list[str]]:
    lines = text.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def _estimators(name: str) -> set[str]:
    from sklearn.utils import all_estimators

    known = {each for each, _ in all_estimators()}
    return {name} & known or {name + end for end in ("Classifier", "Regressor")} & known


def counts(rows: int, task: str, seed: int) -> pa.Table:
    """Flights whose label is a whole number of at least 1."""
    table = flights(rows, "regression", seed)
    return _labelled(table, np.round(np.exp(np.clip(table["late"].to_numpy() / 2, -3, 3))) + 1)


def relevances(rows: int, task: str, seed: int) -> pa.Table:
    """Flights of several queries, whose label is a relevance from 0 to 4."""
    table = flights(rows, "regression", seed)
    query = np.random.default_rng(seed).integers(0, rows // 10, rows)
    table = _labelled(table, np.clip(np.round(table["late"].to_numpy() + 1), 0, 4))
    return table.append_column("query", pa.array([f"q{number}" for number in query]))


def _labelled(table: pa.Table, label: np.ndarray) -> pa.Table:
    return table.set_column(table.schema.get_field_index("late"), "late", pa.array(label))


def wide(rows: int, task: str, seed: int) -> pa.Table:
    """Flights with many more numbers, which scoring feeds as matrices."""
    table, values = flights(rows, task, seed), np.random.default_rng(seed).normal(size=(len(WIDE), rows))
    for name, column in zip(WIDE, values, strict=True):
        table = table.append_column(name, pa.array(column))
    return table


def calibrated_svc(X: Any, y: Any, *, params: dict[str, Any], seed: int) -> Any:  # noqa: N803
    """Fit a calibrated support vector machine, as the page recommends it."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    return _encoded(CalibratedClassifierCV(SVC(), ensemble=False, cv=2)).fit(X, y)


def own_pipeline(X: Any, y: Any, *, params: dict[str, Any], seed: int) -> Any:  # noqa: N803
    """Fit the pipeline of the page."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import LinearSVC

    return _encoded(CalibratedClassifierCV(LinearSVC(random_state=seed, **params), cv=3)).fit(X, y)


def _encoded(estimator: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(preprocessing(list(NUMERIC), ["carrier"]), StandardScaler(with_mean=False), estimator)


def preprocessing(numeric: list[str], categorical: list[str]) -> Any:
    """Return the transformer of the page."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    encoders = [(name, OneHotEncoder(handle_unknown="ignore"), [name]) for name in categorical]
    return ColumnTransformer([("numbers", SimpleImputer(), numeric), *encoders])


_HERE = "tests.support.documented_models"
_OWN = "tests.support.own_training"
_TREES = {"n_estimators": 5, "max_depth": 4}
_EBM = {"max_rounds": 20, "outer_bags": 1, "interactions": 2, "n_jobs": 1}
_MLP = {"hidden_layer_sizes": [8], "max_iter": 20}
_ROUNDS = {"max_iter": 5}
_LIBRARIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "LightGBMTrainer": (LightGBMTrainer, {"num_threads": 1, "num_leaves": 7}),
    "XGBoostTrainer": (XGBoostTrainer, {"nthread": 1, "max_depth": 3}),
    "CatBoostTrainer": (CatBoostTrainer, {"thread_count": 1, "depth": 3}),
}


def _sklearn(path: str, task: Task, params: dict[str, Any], covers: Sequence[str] = (), **fields: Any) -> Case:
    return Case(SklearnTrainer(path, params), task, covers or [path.rpartition(".")[2]], **fields)


def _boosted(library: str, task: Task, params: dict[str, Any], covers: Sequence[str] = (), **fields: Any) -> Case:
    trainer, usual = _LIBRARIES[library]
    group = "query" if fields.get("rows") is relevances else None
    made = trainer({**usual, **params}, rounds=5, validation=0.25, group=group)
    return Case(made, task, ["## Boosted trees", *covers], **fields)


def _classifiers() -> dict[str, Case]:
    estimators = {
        "linear_model.LogisticRegression": {}, "linear_model.SGDClassifier": {"loss": "log_loss", "max_iter": 50},
        "tree.DecisionTreeClassifier": {"max_depth": 5}, "ensemble.RandomForestClassifier": _TREES,
        "ensemble.ExtraTreesClassifier": _TREES, "ensemble.BaggingClassifier": {"n_estimators": 3},
        "ensemble.AdaBoostClassifier": {"n_estimators": 3}, "ensemble.GradientBoostingClassifier": {"n_estimators": 3},
        "ensemble.HistGradientBoostingClassifier": _ROUNDS, "neural_network.MLPClassifier": _MLP,
        "naive_bayes.GaussianNB": {}, "naive_bayes.BernoulliNB": {},
        "neighbors.KNeighborsClassifier": {}, "svm.SVC": {"probability": True},
    }  # fmt: skip
    found = {
        f"{path} {task}": _sklearn(f"sklearn.{path}", task, params)
        for path, params in estimators.items()
        for task in ("binary", "multiclass")
    }
    for task in ("binary", "multiclass"):
        quadratic = "discriminant_analysis.QuadraticDiscriminantAnalysis"
        found[f"{quadratic} {task}"] = _sklearn(f"sklearn.{quadratic}", task, {}, features=NUMERIC)
        ebm = "interpret.glassbox.ExplainableBoostingClassifier"
        found[f"EBM {task}"] = _sklearn(ebm, task, _EBM, ["ExplainableBoostingClassifier", "## A glass-box model"])
        for library in _LIBRARIES:
            found[f"{library} {task}"] = _boosted(library, task, {}, ["## Several labels for each row"])
        # The calibration is a part of the export.
        for method, rows in (("isotonic", 7_000), ("sigmoid", 800), ("temperature", 800)):
            found[f"{method} {task}"] = _sklearn(
                "sklearn.linear_model.LogisticRegression", task, {}, options={"calibration": method}, count=rows
            )
    return found


def _regressors() -> dict[str, Case]:
    estimators = {
        "linear_model.Ridge": {}, "linear_model.ElasticNet": {}, "linear_model.SGDRegressor": {"max_iter": 50},
        "svm.LinearSVR": {"max_iter": 500}, "svm.SVR": {}, "svm.NuSVR": {}, "tree.DecisionTreeRegressor": {"max_depth": 5},
        "ensemble.RandomForestRegressor": _TREES, "ensemble.ExtraTreesRegressor": _TREES,
        "ensemble.BaggingRegressor": {"n_estimators": 3}, "ensemble.AdaBoostRegressor": {"n_estimators": 3},
        "ensemble.GradientBoostingRegressor": {"n_estimators": 3}, "ensemble.HistGradientBoostingRegressor": _ROUNDS,
        "neural_network.MLPRegressor": _MLP, "neighbors.KNeighborsRegressor": {},
        "linear_model.TweedieRegressor": {},
    }  # fmt: skip
    found = {path: _sklearn(f"sklearn.{path}", "regression", params) for path, params in estimators.items()}
    found["EBM regression"] = _sklearn(
        "interpret.glassbox.ExplainableBoostingRegressor", "regression", _EBM, ["ExplainableBoostingRegressor"]
    )
    for library in _LIBRARIES:
        found[f"{library} regression"] = _boosted(library, "regression", {})
    for name in ("linear_model.Ridge", "ensemble.HistGradientBoostingRegressor"):
        found[f"{name} interval"] = _sklearn(f"sklearn.{name}", "regression", {}, options={"interval": 0.8})
    return found


def _objectives() -> dict[str, Case]:
    """Models of counts, of quantiles and of rankings."""
    section = {counts: "## Counts and positive amounts", flights: "## Quantiles", relevances: "## Rankings"}
    found = {}
    for rows, library, code, params in (
        (counts, "LightGBMTrainer", 'objective="poisson"', {"objective": "poisson"}),
        (counts, "LightGBMTrainer", 'objective="gamma"', {"objective": "gamma"}),
        (counts, "LightGBMTrainer", 'objective="tweedie"', {"objective": "tweedie"}),
        (counts, "XGBoostTrainer", 'objective="count:poisson"', {"objective": "count:poisson"}),
        (counts, "XGBoostTrainer", 'objective="reg:gamma"', {"objective": "reg:gamma"}),
        (counts, "XGBoostTrainer", 'objective="reg:tweedie"', {"objective": "reg:tweedie"}),
        (counts, "CatBoostTrainer", 'loss_function="Poisson"', {"loss_function": "Poisson"}),
        (
            counts,
            "CatBoostTrainer",
            'loss_function="Tweedie:variance_power=1.5"',
            {"loss_function": "Tweedie:variance_power=1.5"},
        ),
        (flights, "LightGBMTrainer", 'objective="quantile"', {"objective": "quantile"}),
        (
            flights,
            "XGBoostTrainer",
            'objective="reg:quantileerror"',
            {"objective": "reg:quantileerror", "quantile_alpha": 0.7},
        ),
        (flights, "CatBoostTrainer", 'loss_function="Quantile:alpha=0.9"', {"loss_function": "Quantile:alpha=0.9"}),
        (relevances, "LightGBMTrainer", "lambdarank", {}),
        (relevances, "XGBoostTrainer", "rank:ndcg", {}),
        (relevances, "XGBoostTrainer", "rank:pairwise", {"objective": "rank:pairwise"}),
        (relevances, "CatBoostTrainer", "YetiRank", {}),
        (relevances, "CatBoostTrainer", "QueryRMSE", {"loss_function": "QueryRMSE"}),
    ):
        covers = [f"{library} {code}", section[rows]]
        found[f"{library} {code}"] = _boosted(library, "regression", params, covers, rows=rows)
    histogram, ebm = "HistGradientBoostingRegressor", "ExplainableBoostingRegressor"
    for path, name, params in (
        (f"ensemble.{histogram}", 'loss="poisson"', {**_ROUNDS, "loss": "poisson"}),
        (f"ensemble.{histogram}", 'loss="gamma"', {**_ROUNDS, "loss": "gamma"}),
        ("linear_model.PoissonRegressor", "PoissonRegressor", {}),
        ("linear_model.GammaRegressor", "GammaRegressor", {}),
        ("linear_model.TweedieRegressor", "TweedieRegressor(power=1.5)", {"power": 1.5}),
        ("ensemble.RandomForestRegressor", 'criterion="poisson"', {**_TREES, "criterion": "poisson"}),
        (f"interpret.glassbox.{ebm}", 'objective="poisson_deviance"', {**_EBM, "objective": "poisson_deviance"}),
        (f"interpret.glassbox.{ebm}", 'objective="gamma_deviance"', {**_EBM, "objective": "gamma_deviance"}),
        (
            f"interpret.glassbox.{ebm}",
            'objective="tweedie_deviance:variance_power=1.5"',
            {**_EBM, "objective": "tweedie_deviance:variance_power=1.5"},
        ),
    ):
        first = {
            "linear_model": "linear_model",
            "RandomForestRegressor": "Decision trees and forests of scikit-learn",
        }.get(path.partition(".")[0] if "linear" in path else path.rpartition(".")[2], path.rpartition(".")[2])
        full = path if path.startswith("interpret") else f"sklearn.{path}"
        found[f"{first} {name}"] = _sklearn(full, "regression", params, [f"{first} {name}"], rows=counts)
    for path, code, params in (
        (f"ensemble.{histogram}", 'loss="quantile"', {**_ROUNDS, "loss": "quantile", "quantile": 0.8}),
        ("ensemble.GradientBoostingRegressor", 'loss="quantile"', {"n_estimators": 3, "loss": "quantile"}),
        ("linear_model.QuantileRegressor", "quantile", {"quantile": 0.7}),
    ):
        name = path.rpartition(".")[2]
        found[f"{name} {code}"] = _sklearn(f"sklearn.{path}", "regression", params, [f"{name} {code}", name])
    return found


def _own() -> dict[str, Case]:
    """Training functions, networks, wide models, and a model whose export computes in double precision."""
    function = "## A custom training function"
    network = {"epochs": 1, "batch_size": 64}
    return {
        "own pipeline": Case(FunctionTrainer(f"{_HERE}:own_pipeline", {"C": 0.5}), covers=[function]),
        "own preprocessing": Case(
            SklearnTrainer("sklearn.linear_model.Ridge", preprocessing=f"{_HERE}:preprocessing"),
            "regression",
            ["## A scikit-learn estimator"],
        ),
        "calibrated SVC": Case(FunctionTrainer(f"{_HERE}:calibrated_svc"), covers=[function]),
        "ONNX": Case(FunctionTrainer(f"{_OWN}:onnx_file", {"as": "bytes"}), covers=["An ONNX model"], features=NUMERIC),
        "Keras": Case(
            FunctionTrainer(f"{_OWN}:keras_network", {"activation": "sigmoid"}),
            covers=["A Keras 3 model"],
            features=NUMERIC,
        ),
        "PyTorch": Case(
            FunctionTrainer(f"{_OWN}:torch_network", {"outputs": 1}), covers=["A PyTorch network"], features=NUMERIC
        ),
        "text classifier": Case(
            FunctionTrainer(f"{_OWN}:text_classifier", {"epochs": 3}),
            covers=["## A text classifier", "A TextClassificationPipeline of Hugging Face"],
            features=["review"],
            rows=lambda rows, task, seed: reviews(rows, seed),
        ),
        **{
            f"TorchTrainer {task}": Case(
                TorchTrainer(params={"hidden": [8]}, **network), task, ["## A PyTorch network"]
            )
            for task in ("binary", "multiclass", "regression")
        },
        "wide linear": Case(
            SklearnTrainer("sklearn.linear_model.LogisticRegression"), features=[*FEATURES, *WIDE], rows=wide
        ),
        "wide boosted": Case(_boosted("LightGBMTrainer", "binary", {}).trainer, features=[*WIDE], rows=wide),
        **{
            f"double precision {path}": Case(
                SklearnTrainer(f"sklearn.{path}"), task, features=[*FEATURES, "announced"], rows=stamped
            )
            for task, path in (
                ("binary", "linear_model.LogisticRegression"),
                ("regression", "linear_model.Ridge"),
                ("regression", "svm.SVR"),
            )
        },
    }


CASES = {**_classifiers(), **_regressors(), **_objectives(), **_own()}
