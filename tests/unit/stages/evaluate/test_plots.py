"""The plots of an evaluation: those of the task, drawn without pyplot, also for extreme data."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.gates.evidence import Measurement
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.values import compute
from airflow_mlops.stages.evaluate import plots

CLASSES = {"binary": ["late", "on time"], "multiclass": [0, 1, 2, 3], "regression": []}


def measure(task: str, rows: int, seed: int = 0):
    random = np.random.default_rng(seed)
    classes = CLASSES[task]
    contract = ModelContract(
        task=task, label="delay", features=[], classes=classes, positive="late" if task == "binary" else None,
        dataset_name="d", dataset_id="0",
    )  # fmt: skip
    if task == "regression":
        truth = np.arange(rows, dtype=float)
        value = truth + random.normal(size=rows)
        predictions = Predictions(value, value, None)
    else:
        codes = np.arange(rows) % len(classes)
        labels = np.array(classes, dtype=object)
        truth = labels[codes]
        probabilities = random.random((rows, len(classes))) + np.eye(len(classes))[codes]
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        predictions = Predictions(labels[probabilities.argmax(axis=1)], probabilities[:, 0], probabilities)
    metrics = compute(
        task, truth, predictions.prediction, predictions.score, predictions.probabilities, classes,
        positive=contract.positive,
    )  # fmt: skip
    return truth, contract, Measurement("delays v2", metrics, predictions)


def drawn(file) -> bool:
    """Whether a PNG shows anything but white."""
    from matplotlib.image import imread

    return float(imread(file)[..., :3].min()) < 0.5


@pytest.mark.parametrize("rows", [8, 5_000])
@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("binary", ["roc", "precision_recall", "calibration", "confusion", "importance"]),
        ("multiclass", ["roc", "confusion", "importance"]),
        ("regression", ["residuals", "importance"]),
    ],
)
def test_each_task_has_its_plots(task, names, rows, tmp_path):
    truth, contract, candidate = measure(task, rows)
    _, _, champion = measure(task, rows, seed=1)
    importance = {f"feature {number}": 0.1 / (number + 1) for number in range(30)}
    files = plots.draw(tmp_path, truth, contract, candidate, champion, importance, "roc_auc")
    assert sorted(file.name for file in files) == sorted(f"{name}.png" for name in names)
    assert all(drawn(file) for file in files)


def test_the_confusion_matrix_counts_classes_that_the_model_or_the_data_lacks():
    truth = np.array(["late", "late", "on time", "diverted"], dtype=object)
    predicted = np.array(["late", "cancelled", "cancelled", "late"], dtype=object)
    model = Measurement("m v1", {}, Predictions(predicted, np.zeros(4), None))
    axes = plots._confusion(truth, model, CLASSES["binary"]).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["late", "on time", "other"]
    counts = [text.get_text().partition("\n")[0] for text in axes.texts]
    assert counts == ["1", "0", "1", "0", "0", "1", "1", "0", "0"]


def test_perfect_and_constant_models_are_drawn(tmp_path):
    _, contract, _ = measure("regression", 10)
    values = np.full(10, 3.0)
    same = Measurement("m v1", {"rmse": 0.0, "r2": 1.0}, Predictions(values, values, None))
    (file,) = plots.draw(tmp_path, values, contract, same, None, {}, "rmse")
    assert drawn(file)


def test_the_residuals_of_a_quantile_have_the_pinball_loss_and_the_coverage_in_their_title():
    truth, contract, candidate = measure("regression", 100)
    above = Predictions(truth + 1, truth + 1, None)
    model = Measurement("m v1", {**candidate.metrics, "pinball_a0.9": 0.1}, above)
    quantile = contract.model_copy(update={"metrics": {"rmse": 1.0, "pinball_a0.9": 0.1}})
    assert plots._residuals(truth, model, quantile).axes[0].get_title(loc="left") == (
        "m v1 (pinball_a0.9 0.1, 100.0% of labels at most the prediction)"
    )
    assert "RMSE" in plots._residuals(truth, model, contract).axes[0].get_title(loc="left")


def test_dollar_signs_in_names_are_not_parsed_as_formulas(tmp_path):
    truth, contract, candidate = measure("binary", 20)
    odd = contract.model_copy(update={"label": r"$\x$"})
    files = plots.draw(tmp_path, truth, odd, candidate, None, {r"$\y$": 0.5, "$_in_$": 0.1}, "roc_auc")
    assert all(drawn(file) for file in files)


def test_without_importances_there_is_no_importance_plot(tmp_path):
    truth, contract, candidate = measure("binary", 20)
    names = [file.stem for file in plots.draw(tmp_path, truth, contract, candidate, None, {}, "roc_auc")]
    assert "importance" not in names


def test_pyplot_is_never_imported():
    code = "import sys; import airflow_mlops.stages.evaluate.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
