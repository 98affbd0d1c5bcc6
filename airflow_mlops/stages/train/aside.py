"""Set aside rows of the split part ``train`` for a calibration, a decision threshold or prediction intervals.

The model is not fitted to these rows, and gates do not use them. If a training needs rows for a calibration and for a
threshold, each of the two gets half of the rows. A threshold chosen on the rows of the calibration would be biased,
because the calibration was fitted to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import ModelContract, TrainingSample
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.datasets.subsets import with_rows
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models.calibration import require_rows
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.rules.interval import fewest_rows
from airflow_mlops.models.trainers.sampling import drawn
from airflow_mlops.models.trainers.validation import SHARE, held_out
from airflow_mlops.models.training_data import label_values
from airflow_mlops.stages.train.spec import TrainSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SetAside:
    """Training rows that are set aside for one use.

    :param chosen: the rows that are set aside
    :param source: how the rows were chosen, as text
    """

    chosen: Dataset
    source: str

    def predictions(self, model: OnnxModel, part: str | None) -> Iterator[Predictions]:
        """Yield the predictions for the rows, in batches.

        :param part: name of the split part that the training reads; ``None`` for all rows
        """
        names = [feature.name for feature in model.contract.features]
        return (model.predict(batch) for batch in self.chosen.batches(part, names) if batch.num_rows)

    def labels(self, contract: ModelContract, part: str | None) -> NDArray[Any]:
        """Return the labels of the rows, shape (n,).

        :param part: name of the split part that the training reads; ``None`` for all rows
        """
        column = self.chosen.table(part, [contract.label]).column(contract.label)
        return label_values(column, contract.task, f"Label {contract.label!r}")


@dataclass(frozen=True)
class Divided:
    """The training rows, divided by their use.

    :param fitted: the rows to fit the model to
    :param sample: the size of the sample if ``fitted`` is a sample of the other rows; otherwise ``None``
    :param calibration: the rows to fit the calibration to; ``None`` without a calibration
    :param threshold: the rows to choose the threshold on; ``None`` if no threshold is chosen
    :param interval: the rows to compute the margin of prediction intervals on; ``None`` without prediction intervals
    """

    fitted: Dataset
    sample: TrainingSample | None = None
    calibration: SetAside | None = None
    threshold: SetAside | None = None
    interval: SetAside | None = None


def uses(spec: TrainSpec) -> list[str]:
    """Return the uses for which rows must be set aside, among ``calibration``, ``threshold`` and ``interval``."""
    found = []
    if spec.calibration is not None and not spec.calibration.maps:
        found.append("calibration")
    if spec.threshold is not None and spec.threshold.value is None:
        found.append("threshold")
    if spec.interval is not None and spec.interval.margin is None:
        found.append("interval")
    return found


def divided(spec: TrainSpec, dataset: Dataset, part: str | None, labels: NDArray[Any]) -> Divided:
    """Divide the training rows into the rows to fit the model to, and rows that are set aside.

    Rows are set aside for a calibration, a threshold or prediction intervals.

    If the training set has event times, the newest rows are set aside. If it was split by a group, whole groups are set
    aside. Otherwise, random rows are set aside. If both a calibration and a threshold need rows, these rows are halved
    in the same way: the threshold is chosen on the newer half, or on half of the groups or rows.

    If the trainer has ``max_rows``, the model is fitted to a sample of the other rows.

    :param part: name of the split part that the training reads; ``None`` for all rows
    :param labels: labels of these rows, shape (n,)
    :raises TrainingError: one of the parts has no rows, only rows of one class, or too few rows for a calibration or
        for prediction intervals; or the sample has no row of a class
    """
    wanted = uses(spec)
    if not wanted:
        return Divided(*_drawn(spec, dataset, part, np.ones(len(labels), dtype=bool), labels))
    instead = {
        "calibration": "remove `calibration`",
        "threshold": "give `threshold` as a number",
        "interval": "remove `interval`",
    }
    otherwise = " and ".join(instead[use] for use in wanted)
    purpose = {"calibration": "the calibration", "threshold": "the choice of a threshold", "interval": "the interval"}
    setting = " and ".join(purpose[use] for use in wanted)
    # The trainer may draw validation rows with the same seed.
    chosen, source = held_out(dataset, part, len(labels), SHARE, spec.seed + 1, setting=setting, otherwise=otherwise)
    masks = {wanted[0]: chosen}
    if len(wanted) > 1:
        newer, _ = held_out(
            with_rows(dataset, part, chosen),
            part,
            int(chosen.sum()),
            0.5,
            spec.seed + 2,
            setting=setting,
            otherwise=otherwise,
        )
        first, second = np.zeros_like(chosen), np.zeros_like(chosen)
        first[chosen], second[chosen] = ~newer, newer
        masks = {"calibration": first, "threshold": second}
    if spec.interval is not None:
        _require_rows(spec.interval.coverage, int(chosen.sum()), source)
    else:
        _require_classes(dataset, labels[~chosen], "the model is fitted to", source, otherwise)
    if "threshold" in masks:
        _require_classes(dataset, labels[masks["threshold"]], "a threshold is chosen on", source, otherwise)
    if spec.calibration is not None and "calibration" in masks:
        classes = np.unique(labels[~chosen]).tolist()
        require_rows(spec.calibration.method, labels[masks["calibration"]], classes, source)
    if len(wanted) > 1:
        source = f"one half of {source}"
    parts = {use: SetAside(with_rows(dataset, part, rows), source) for use, rows in masks.items()}
    fitted, sample = _drawn(spec, dataset, part, ~chosen, labels)
    return Divided(fitted, sample, **parts)


def _drawn(
    spec: TrainSpec, dataset: Dataset, part: str | None, rest: NDArray[np.bool_], labels: NDArray[Any]
) -> tuple[Dataset, TrainingSample | None]:
    """Return the rows to fit the model to, and the size of the sample if they are a sample.

    :param rest: whether each row of the split part is left after rows were set aside, shape (n,)
    """
    found, sample = rest.copy(), None
    found[rest] = drawn(
        labels[rest],
        getattr(spec.trainer, "max_rows", None),
        spec.seed,
        regression=dataset.manifest.details["task"] == "regression",
    )
    if not np.array_equal(found, rest):
        sample = TrainingSample(rows=int(found.sum()), of=int(rest.sum()))
    return dataset if found.all() else with_rows(dataset, part, found), sample


def _require_classes(dataset: Dataset, labels: NDArray[Any], use: str, source: str, otherwise: str) -> None:
    if len(found := np.unique(labels)) < 2:
        raise TrainingError(
            f"All {len(labels):,} rows of training set {dataset.manifest.name!r} that {use} have the label {found.tolist()[0]!r}, "
            f"but two classes are needed ({source} are set aside). Use more rows, or {otherwise}."
        )


def _require_rows(coverage: float, rows: int, source: str) -> None:
    if rows < (needed := fewest_rows(coverage)):
        raise TrainingError(
            f"interval={coverage:g} needs the residuals of {needed:,} training rows that the model is not fitted to, but only "
            f"{rows:,} are set aside ({source}). Use more rows or a smaller coverage, or remove `interval`."
        )
