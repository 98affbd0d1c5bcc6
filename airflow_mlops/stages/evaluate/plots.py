"""Draw the plots of an evaluation as PNG files. Matplotlib is used without pyplot, because pyplot is slow to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from airflow_mlops.core.contract import ModelContract, ThresholdChoice
from airflow_mlops.core.numbers import rounded
from airflow_mlops.gates.evidence import Measurement
from airflow_mlops.metrics import weighted
from airflow_mlops.metrics.catalog import is_ranking, predicted_quantile
from airflow_mlops.metrics.judged import default_metric
from airflow_mlops.metrics.losses import at_most
from airflow_mlops.metrics.quantiles import name_of
from airflow_mlops.metrics.rows import encode, is_positive
from airflow_mlops.metrics.values import reliability
from airflow_mlops.models.plotting import (
    BARS,
    BLUE,
    CLASS_COLOURS,
    GREY,
    ORANGE,
    new_figure,
    no_mathtext,
    save,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

CURVE_POINTS, SCATTER_POINTS, CELLS = 1_000, 5_000, 12


@no_mathtext
def draw(
    folder: Path,
    truth: NDArray[Any],
    contract: ModelContract,
    candidate: Measurement,
    champion: Measurement | None,
    importance: Mapping[str, float],
    metric: str,
) -> list[Path]:
    """Draw the plots for the ML task of the candidate into ``folder``.

    :param truth: the labels, shape (n,)
    :param champion: metrics and predictions of the champion, for plots that show two models; ``None`` if unknown
    :param importance: permutation importance of each feature for ``metric``
    :param metric: name of the metric that ranks the candidates
    :return: paths of the PNG files
    """
    scored = not candidate.gives_labels_only
    models = [candidate, *([champion] if champion and not champion.gives_labels_only else [])]
    figures: dict[str, Figure] = {}
    if contract.task == "binary" and scored:
        positive = is_positive(truth, contract.classes, contract.positive)
        figures["roc"] = _roc(positive, models)
        figures["precision_recall"] = _precision_recall(positive, models)
        figures["calibration"] = _calibration(positive, models, contract)
    if contract.threshold_choice is not None and contract.threshold_choice.curve:
        figures["threshold"] = _threshold(contract.threshold, contract.threshold_choice)
    if contract.task == "multiclass" and scored:
        figures["roc"] = _roc_by_class(truth, candidate, contract.classes)
    if contract.task == "regression":
        figures["residuals"] = _residuals(np.asarray(truth, dtype=np.float64), candidate, contract)
    else:
        figures["confusion"] = _confusion(truth, candidate, contract.classes)
    if importance:
        figures["importance"] = _importance(importance, metric, candidate.name)
    return save(folder, figures)


def _styles(models: list[Measurement]) -> list[tuple[Measurement, dict[str, Any]]]:
    looks: list[dict[str, Any]] = [{"color": BLUE, "linestyle": "-"}, {"color": ORANGE, "linestyle": "--"}]
    return list(zip(models, looks, strict=False))


def _name(model: Measurement, models: list[Measurement]) -> str:
    return f"champion {model.name}" if model is not models[0] else model.name


def _score(model: Measurement) -> NDArray[np.float64]:
    assert model.predictions is not None
    return model.predictions.score


def _weight(model: Measurement) -> NDArray[np.float64] | None:
    return None if model.rows is None else model.rows.weight


def _thin(*curve: NDArray[Any]) -> list[NDArray[Any]]:
    size = len(curve[0])
    if size <= CURVE_POINTS:
        return list(curve)
    kept = np.linspace(0, size - 1, CURVE_POINTS).astype(int)
    return [values[kept] for values in curve]


def _unit_square(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    # The tick labels always have the same width, so fixed margins fit. Computing margins would take a third of the
    # time.
    figure = Figure(figsize=(5.6, 4.8))
    figure.subplots_adjust(left=0.11, right=0.975, bottom=0.115, top=0.93)
    axes = figure.add_subplot()
    style(axes)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    return figure, axes


def _roc(positive: NDArray[np.bool_], models: list[Measurement]) -> Figure:
    from sklearn.metrics import roc_curve

    figure, axes = _unit_square("ROC curve", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance (AUC 0.5)")
    for model, look in _styles(models):
        false_rate, true_rate, _ = roc_curve(positive, _score(model), sample_weight=_weight(model))
        label = f"{_name(model, models)} (AUC {model.metrics['roc_auc']:.3f})"
        axes.plot(*_thin(false_rate, true_rate), **look, label=label)
    axes.legend(loc="lower right", frameon=False)
    return figure


def _roc_by_class(truth: NDArray[Any], model: Measurement, classes: list[Any]) -> Figure:
    from sklearn.metrics import roc_auc_score, roc_curve

    title = "ROC curve of each class against the rest"
    figure, axes = _unit_square(title, "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    codes = encode(truth, classes)
    assert model.predictions is not None
    probabilities = model.predictions.probabilities
    weight = _weight(model)
    counts = np.bincount(codes[codes >= 0], minlength=len(classes))
    each = np.ones(truth.size) if weight is None else weight
    mass = np.bincount(codes[codes >= 0], weights=each[codes >= 0], minlength=len(classes))
    # Only the most frequent classes are drawn, one for each colour.
    for colour, code in zip(CLASS_COLOURS, np.argsort(-counts, kind="stable"), strict=False):
        if probabilities is None or not 0 < mass[code] < each.sum():
            continue
        mine, score = codes == code, probabilities[:, code]
        false_rate, true_rate, _ = roc_curve(mine, score, sample_weight=weight)
        label = f"{classes[code]} (AUC {roc_auc_score(mine, score, sample_weight=weight):.3f})"
        axes.plot(*_thin(false_rate, true_rate), color=colour, label=label)
    axes.legend(loc="lower right", frameon=False)
    return figure


def _precision_recall(positive: NDArray[np.bool_], models: list[Measurement]) -> Figure:
    from sklearn.metrics import precision_recall_curve

    figure, axes = _unit_square("Precision and recall", "recall", "precision")
    share = np.average(positive, weights=_weight(models[0]))
    axes.axhline(share, color=GREY, linestyle=":", label=f"chance (precision {share:.3f})")
    for model, look in _styles(models):
        precision, recall, _ = precision_recall_curve(positive, _score(model), sample_weight=_weight(model))
        label = f"{_name(model, models)} (AP {model.metrics['average_precision']:.3f})"
        axes.plot(*_thin(recall, precision), **look, label=label)
    axes.legend(loc="upper right", frameon=False)
    return figure


def _threshold(threshold: float, choice: ThresholdChoice) -> Figure:
    below = f"threshold ({choice.rows:,} training rows that were set aside)"
    figure, axes = _unit_square(f"Decision threshold: {choice.rule}", below, "share")
    values = [point.threshold for point in choice.curve]
    axes.plot(values, [point.recall for point in choice.curve], color=BLUE, label="recall")
    precision = [float("nan") if point.precision is None else point.precision for point in choice.curve]
    axes.plot(values, precision, color=ORANGE, linestyle="--", label="precision")
    axes.plot(values, [point.positives for point in choice.curve], color=GREY, label="rows predicted positive")
    axes.axvline(threshold, color=GREY, linestyle=":", label=f"chosen: {threshold:.4g}")
    axes.legend(loc="best", frameon=False)
    return figure


def _calibration(positive: NDArray[np.bool_], models: list[Measurement], contract: ModelContract) -> Figure:
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    style(axes)
    style(below)
    axes.set_title("Calibration", loc="left", fontsize=11)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
    for model, look in _styles(models):
        predicted, observed, _ = reliability(positive, _score(model), _weight(model))
        name = f"{_name(model, models)} (ECE {model.metrics['ece']:.3f})"
        axes.plot(predicted, observed, marker="o", markersize=4, **look, label=name)
        below.hist(
            _score(model), bins=40, range=(0, 1), histtype="step", color=look["color"], linestyle=look["linestyle"]
        )
    if contract.calibration is not None and (before := contract.calibration.curve_before):
        name = f"{models[0].name} without {contract.calibration.method} (ECE {contract.calibration.before['ece']:.3f})"
        axes.plot(
            [point.predicted for point in before],
            [point.observed for point in before],
            marker="x",
            markersize=4,
            color=GREY,
            label=name,
        )
    axes.set(ylim=(-0.01, 1.01), ylabel=f"observed share of {contract.positive!r}")
    below.set(xlim=(-0.01, 1.01), xlabel="predicted probability", ylabel="rows")
    below.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="upper left", frameon=False)
    return figure


def _confusion(truth: NDArray[Any], model: Measurement, classes: list[Any]) -> Figure:
    assert model.predictions is not None
    true, predicted = encode(truth, classes), encode(model.predictions.prediction, classes)
    if (true < 0).any() or (predicted < 0).any():
        # The label may be a class that the model does not know. A model that TrainOperator did not train may predict a
        # class that is not in its contract.
        true, predicted = (np.where(codes < 0, len(classes), codes) for codes in (true, predicted))
        classes = [*classes, "other"]
    size = len(classes)
    counts = np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)
    mass = np.bincount(true * size + predicted, weights=_weight(model), minlength=size * size).reshape(size, size)
    total = mass.sum(axis=1, keepdims=True)
    shares = mass / np.where(total > 0, total, 1)
    side = max(4.6, min(12.0, 1.6 + 0.7 * size))
    figure, axes = new_figure(f"Confusion matrix of {model.name}", side + 0.8, side)
    axes.grid(visible=False)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(size), [str(item) for item in classes], rotation=45 if size > 4 else 0)
    axes.set_yticks(range(size), [str(item) for item in classes])
    axes.set(xlabel="predicted", ylabel="true")
    if size <= CELLS:
        for row in range(size):
            for column in range(size):
                text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
                colour = "white" if shares[row, column] > 0.6 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.85)
    return figure


def _in_numbers(truth: NDArray[np.float64], model: Measurement, contract: ModelContract) -> str:
    alpha = predicted_quantile(contract.task, contract.metrics)
    if alpha is None:
        judged_by = default_metric(contract)
        own = [] if judged_by not in model.metrics else [f"{judged_by} {rounded(model.metrics[judged_by])}"]
        if is_ranking(judged_by):
            # The scores of a ranking have no unit.
            return ", ".join(own) or f"{judged_by} unknown"
        squared = [f"RMSE {rounded(model.metrics['rmse'])}", f"R² {model.metrics['r2']:.3f}"]
        return ", ".join([*(own if judged_by != "rmse" else []), *squared])
    loss = model.metrics.get(name_of(alpha))
    measured = [] if loss is None else [f"{name_of(alpha)} {rounded(loss)}"]
    covered = weighted.mean(at_most(truth, _score(model)).astype(float), _weight(model))
    return ", ".join([*measured, f"{covered:.1%} of labels at most the prediction"])


def _residuals(truth: NDArray[np.float64], model: Measurement, contract: ModelContract) -> Figure:
    value, label = _score(model), contract.label
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    kept = np.random.default_rng(0).permutation(truth.size)[:SCATTER_POINTS]
    bins = _bins(np.concatenate([truth, value]))
    low, high = bins[0], bins[-1]
    for axes in (left, right):
        style(axes)
    left.scatter(value[kept], truth[kept], s=8, alpha=0.35, color=BLUE, linewidths=0, rasterized=True)
    left.plot([low, high], [low, high], color=GREY, linestyle=":")
    left.set(xlim=(low, high), ylim=(low, high), xlabel=f"predicted {label}", ylabel=f"true {label}")
    left.set_title(f"{model.name} ({_in_numbers(truth, model, contract)})", loc="left", fontsize=11)
    residuals = truth - value
    right.hist(residuals, bins=_bins(residuals), color=BLUE)
    right.axvline(0, color=GREY, linestyle=":")
    right.axvline(residuals.mean(), color=ORANGE, linestyle="--", label=f"mean {rounded(residuals.mean(), 3)}")
    right.set(xlabel="residual (true minus predicted)", ylabel="rows")
    right.yaxis.set_major_formatter("{x:,.0f}")
    right.set_title("Residuals", loc="left", fontsize=11)
    right.legend(frameon=False)
    return figure


def _bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # A few outliers must not compress all other rows into one bar or corner.
    low, high = np.percentile(values, [0.5, 99.5])
    return np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)


def _importance(importance: Mapping[str, float], metric: str, name: str) -> Figure:
    top = sorted(importance.items(), key=lambda item: item[1], reverse=True)[:BARS]
    figure, axes = new_figure(f"Feature importance for {name}", 6.4, 1.6 + 0.27 * len(top))
    axes.barh([feature for feature, _ in top], [drop for _, drop in top], color=BLUE)
    axes.set_ylim(len(top) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel(f"degradation of {metric} when the feature is shuffled")
    return figure
