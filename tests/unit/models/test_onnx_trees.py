"""Large forests are split into pieces that fit the cache, and predict the same."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.models.onnx import trees as onnx_trees

X = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
SIGNAL = X[:, 0] - X[:, 1] * X[:, 2]
LABELS = {
    "binary": (SIGNAL > 0).astype(np.int64),
    "names": np.array(["early", "late", "on time"], dtype=object)[np.digitize(SIGNAL, [-1, 1])],
    "number": SIGNAL.astype(np.float64),
    "numbers": np.column_stack([SIGNAL, -SIGNAL]),
}


def exported(estimator):
    from skl2onnx import to_onnx

    return to_onnx(
        estimator, X[:1], options={id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    )


def answers(model):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: X})


def kinds(model) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("family", ["RandomForest", "ExtraTrees"])
@pytest.mark.parametrize("labels", LABELS)
def test_a_split_forest_predicts_like_the_whole_one(family, labels, monkeypatch):
    from onnx import checker
    from sklearn import ensemble

    monkeypatch.setattr(onnx_trees, "NODES", 300)
    kind = getattr(ensemble, f"{family}{'Regressor' if labels.startswith('number') else 'Classifier'}")
    whole = exported(kind(n_estimators=12, random_state=0).fit(X, LABELS[labels]))
    before = answers(whole)
    assert sum("TreeEnsemble" in name for name in kinds(whole)) == 1
    pieces = onnx_trees.split_forests(whole)
    checker.check_model(pieces)
    assert kinds(pieces).count("TreeEnsembleRegressor") > 3
    after = answers(pieces)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        if one.dtype.kind == "f":
            np.testing.assert_allclose(other, one, atol=1e-5)
        else:
            # If two classes have equally many votes, rounding may prefer either.
            assert (one == other).mean() > 0.99


@pytest.mark.parametrize(
    ("module", "name", "labels", "nodes"),
    [
        ("ensemble", "RandomForestClassifier", "binary", 1_000_000),
        ("ensemble", "GradientBoostingClassifier", "binary", 10),
        ("ensemble", "HistGradientBoostingClassifier", "names", 10),
        ("linear_model", "LogisticRegression", "binary", 1),
    ],
)
def test_small_forests_and_other_ensembles_are_not_split(module, name, labels, nodes, monkeypatch):
    import importlib

    monkeypatch.setattr(onnx_trees, "NODES", nodes)
    estimator = getattr(importlib.import_module(f"sklearn.{module}"), name)().fit(X, LABELS[labels])
    model = exported(estimator)
    before = model.SerializeToString()
    assert onnx_trees.split_forests(model).SerializeToString() == before
