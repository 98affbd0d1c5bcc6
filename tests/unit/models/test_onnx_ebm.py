"""Explainable Boosting Machines predict the same in ONNX, up to the last digits."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor
from onnx import TensorProto, helper

from airflow_mlops.core.contract import FeatureColumn
from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.models.onnx import ebm as onnx_ebm
from airflow_mlops.models.trainers.sklearn import ebm

NUMBERS, TEXTS = ["distance", "hour"], ["carrier", "tail"]
FEATURES = [FeatureColumn(name=name, kind="string" if name in TEXTS else "number") for name in [*NUMBERS, *TEXTS]]
TYPES = ["continuous", "continuous", "nominal", "nominal"]
QUICK = {"max_rounds": 40, "outer_bags": 2, "n_jobs": 1, "random_state": 0}


def rows(count: int, seed: int = 0) -> pd.DataFrame:
    """What models are given: numbers of single precision with gaps, and text with empty ones."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "distance": random.gamma(2, 500, count).astype(np.float32).astype(float),
            "hour": random.integers(5, 23, count).astype(float),
            "carrier": random.choice(["", "AA", "B6", "UA"], count).astype(object),
            "tail": np.array([f"N{number}" for number in random.zipf(1.5, count) % 60], dtype=object),
        }
    )
    frame.loc[random.random(count) < 0.1, "distance"] = np.nan
    return frame


X = rows(700)
SIGNAL = np.nan_to_num(X.distance) / 500 + X.hour / 8 + 2 * (X.carrier == "B6") * (X.hour > 12) - 3
LABELS = {
    "numbers": (SIGNAL > 0.5).to_numpy().astype(int),
    "texts": np.where(SIGNAL > 0.5, "late", "early").astype(object),
    "three": np.array(["early", "late", "on time"], dtype=object)[np.digitize(SIGNAL, [-0.5, 1.5])],
    "value": SIGNAL.to_numpy(),
    "count": np.digitize(SIGNAL, [-0.5, 1.5]),
}


def fit(labels: str, **params):
    kind = ExplainableBoostingRegressor if labels in ("value", "count") else ExplainableBoostingClassifier
    with ebm.no_plot_warnings():
        return kind(**{"feature_types": TYPES, "interactions": 6, **QUICK, **params}).fit(X, LABELS[labels])


def answers(model, frame: pd.DataFrame) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(string)": object}
    feeds = {item.name: frame[item.name].to_numpy().astype(kinds[item.type])[:, None] for item in session.get_inputs()}
    return session.run(None, feeds)


def hard(model) -> pd.DataFrame:
    """Rows that an export easily gets wrong: values on both sides of each cut, and missing, infinite and unknown values."""
    cuts = np.concatenate(model.bins_[0])
    near = cuts.astype(np.float32)
    near = np.concatenate([np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))])
    frame = rows(len(near) + 10, seed=3)
    frame.loc[: len(near) - 1, "distance"] = near.astype(float)
    frame.loc[len(near) :, "distance"] = [np.nan, np.inf, -np.inf, 0, -0.0, 1e-30, -1e30, np.nan, 1, 2]
    frame.loc[frame.index[::7], "hour"] = np.nan
    frame.loc[frame.index[::5], "carrier"] = "never seen"
    frame.loc[frame.index[::11], "tail"] = ""
    return frame


@pytest.mark.parametrize(
    ("labels", "params"),
    [
        ("numbers", {}),
        ("texts", {"interactions": 0}),
        ("three", {}),
        ("value", {}),
        ("count", {"objective": "poisson_deviance"}),
        ("value", {"interactions": [("hour", "carrier", "distance")], "exclude": ["tail", "hour"]}),
    ],
)
def test_predictions_are_the_same(labels, params):
    model = fit(labels, **params)
    frame = hard(model)
    found = answers(onnx_ebm.to_onnx(model, FEATURES), frame)
    if labels in ("value", "count"):
        (value,) = found
        np.testing.assert_allclose(value[:, 0], model.predict(frame), rtol=1e-12, atol=1e-12)
        return
    label, probabilities = found
    np.testing.assert_allclose(probabilities, model.predict_proba(frame), rtol=0, atol=1e-12)
    assert (label == model.predict(frame)).all()


def test_a_feature_without_a_term_is_not_an_input():
    model = fit("value", interactions=0, exclude=["tail"])
    exported = onnx_ebm.to_onnx(model, FEATURES)
    assert [item.name for item in exported.graph.input] == ["distance", "hour", "carrier"]


def test_features_may_have_the_names_of_graph_nodes():
    names = ["label", "constant 0", "probabilities", "Concat 0"]
    frame = X.set_axis(names, axis=1)
    with ebm.no_plot_warnings():
        model = ExplainableBoostingClassifier(feature_types=TYPES, interactions=1, **QUICK)
        model.fit(frame, LABELS["numbers"])
    features = [FeatureColumn(name=name, kind=item.kind) for name, item in zip(names, FEATURES, strict=True)]
    _, probabilities = answers(onnx_ebm.to_onnx(model, features), frame)
    np.testing.assert_allclose(probabilities, model.predict_proba(frame), rtol=0, atol=1e-12)


@given(
    cuts=st.lists(st.floats(-1e38, 1e38), max_size=20, unique=True),
    values=st.lists(st.floats(width=32), max_size=10),
)
def test_the_bin_of_a_number_is_found_for_any_cuts(cuts, values):
    cuts = np.sort(np.array(cuts, dtype=np.float64))
    given_values = np.array([*values, *cuts, np.nan, np.inf, -np.inf]).astype(np.float32)
    trees = onnx_ebm._Trees()
    trees.add(onnx_ebm._single(cuts), 0, 0)
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["bin"], domain="ai.onnx.ml", n_targets=1, **trees.attributes
    )
    x, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("x", "bin"))
    opsets = [helper.make_opsetid("", onnx_ebm.OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph([node], "bins", [x], [found]), opset_imports=opsets, ir_version=8)
    (bins,) = answers(model, pd.DataFrame({"x": given_values}))
    expected = np.searchsorted(cuts, given_values.astype(float), side="right") + 1
    expected[np.isnan(given_values)] = onnx_ebm.MISSING
    assert bins[:, 0].tolist() == expected.tolist()


def test_a_model_fitted_to_other_types_or_names_is_refused():
    model = fit("value", feature_types=["nominal", "continuous", "nominal", "nominal"], interactions=0)
    with pytest.raises(ModelFormatError, match="numeric feature 'distance' as 'nominal'.*`feature_types`"):
        onnx_ebm.to_onnx(model, FEATURES)
    bare = ExplainableBoostingRegressor(interactions=0, **QUICK).fit(X[["hour"]].to_numpy(), LABELS["value"])
    with pytest.raises(ModelFormatError, match="fitted to the column 'feature_0000', which is not a feature"):
        onnx_ebm.to_onnx(bare, FEATURES)
