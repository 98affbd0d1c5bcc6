"""Sets the decision threshold of a candidate by the rule of the training (``threshold=``).

A share of the split part ``train`` is set aside. The model is not fitted to these rows, and gates do not use them. The threshold is
chosen by the scores of the ONNX export, which scoring compares with the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import THRESHOLD, ModelContract, Task, ThresholdChoice
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.metrics.rows import is_positive
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.threshold_choice import choose
from airflow_mlops.models.threshold_rule import ThresholdRule
from airflow_mlops.models.trainers.validation import held_out
from airflow_mlops.models.training_data import label_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARE = 0.2
"""Share of the training rows on which a threshold is chosen."""


@dataclass(frozen=True)
class SetAside:
    """Training rows that are set aside to choose the threshold on them, and the others.

    :param fitted: the rows to fit the model to
    :param chosen: the rows to choose the threshold on
    :param source: the choice of these rows in words
    """

    fitted: Dataset
    chosen: Dataset
    source: str


def check_task(rule: ThresholdRule | None, task: Task) -> None:
    """Check that a model of the ML task has a threshold.

    :raises SpecError: a rule is set, and the ML task is not binary
    """
    if rule is not None and task != "binary":
        raise SpecError(f"`threshold` is set, but a {task} model has no decision threshold. Remove `threshold`.")


def set_aside(
    rule: ThresholdRule | None, dataset: Dataset, part: str | None, labels: NDArray[Any], seed: int
) -> SetAside | None:
    """Divide the training rows if the rule chooses a threshold.

    The newest rows are set aside if the training set has event times, whole groups if it was split by a group, and otherwise
    random rows.

    :param part: name of the split part that the training reads; ``None`` for all rows
    :param labels: labels of these rows, shape (n,)
    :return: ``None`` if no threshold is chosen on rows
    :raises TrainingError: one of the two has no rows, or only rows of one class
    """
    if rule is None or rule.value is not None:
        return None
    otherwise = "give `threshold` as a number"
    # The trainer may draw validation rows with the same seed.
    chosen, source = held_out(
        dataset, part, len(labels), SHARE, seed + 1, setting="the choice of a threshold", otherwise=otherwise
    )
    for rows, use in ((chosen, "a threshold is chosen on"), (~chosen, "the model is fitted to")):
        if len(found := np.unique(labels[rows])) < 2:
            raise TrainingError(
                f"All {int(rows.sum()):,} rows of training set {dataset.manifest.name!r} that {use} have the label "
                f"{found.tolist()[0]!r}, but both classes are needed ({source} are set aside to choose a threshold). Use more rows, "
                f"or {otherwise}."
            )
    return SetAside(dataset.chosen(part, ~chosen), dataset.chosen(part, chosen), source)


def with_threshold(
    rule: ThresholdRule,
    contract: ModelContract,
    aside: SetAside | None,
    part: str | None,
    exported: bytes,
    progress: Callable[[str], None],
) -> ModelContract:
    """Return the contract of a model with the threshold of the rule.

    :param contract: contract with the threshold of the estimator
    :param aside: the rows that :func:`set_aside` returned
    :param part: name of the split part that the training reads; ``None`` for all rows
    :param exported: the ONNX export of the model
    :param progress: function that writes a message to the task's log
    :raises SpecError: the estimator sets a threshold, too
    :raises TrainingError: no threshold meets the rule
    """
    if contract.threshold != THRESHOLD:
        raise SpecError(
            f"`threshold` is set, and the estimator has a threshold of its own ({contract.threshold:g}). Remove `threshold`, or the "
            "TunedThresholdClassifierCV or FixedThresholdClassifier."
        )
    if aside is None:
        assert rule.value is not None
        choice = ThresholdChoice(rule=str(rule))
        return contract.model_copy(update={"threshold": rule.value, "threshold_choice": choice})
    model = OnnxModel(exported, contract)
    names = [feature.name for feature in contract.features]
    score = np.concatenate(
        [model.predict(batch).score for batch in aside.chosen.batches(part, names) if batch.num_rows]
    )
    column = aside.chosen.table(part, [contract.label]).column(contract.label)
    labels = label_values(column, contract.task, f"Label {contract.label!r}")
    value, choice = choose(rule, is_positive(labels, contract.classes, contract.positive), score, aside.source)
    point = choice.point
    assert point is not None
    precision = "undefined" if point.precision is None else f"{point.precision:.4g}"
    progress(
        f"The decision threshold is {value:.6g} ({rule}), chosen on {choice.rows:,} training rows that the model was not fitted to "
        f"({aside.source}). There, precision is {precision}, recall {point.recall:.4g}, and {point.positives:.2%} of the rows are "
        "predicted to be positive."
    )
    return contract.model_copy(update={"threshold": value, "threshold_choice": choice})
