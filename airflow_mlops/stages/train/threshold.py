"""Set the decision threshold of a candidate by the rule of the training (``threshold=``).

The threshold is chosen on rows that :mod:`airflow_mlops.stages.train.aside` sets aside. It is chosen by the scores of
the ONNX export, because scoring compares these scores with the threshold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from airflow_mlops.core.contract import THRESHOLD, ModelContract, Task, ThresholdChoice
from airflow_mlops.core.errors import SpecError
from airflow_mlops.metrics.rows import is_positive
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.threshold_choice import choose
from airflow_mlops.models.threshold_rule import ThresholdRule
from airflow_mlops.models.training_data import label_values
from airflow_mlops.stages.train.aside import SetAside


def check_task(rule: ThresholdRule | None, task: Task) -> None:
    """Check that a model of the ML task has a threshold.

    :raises SpecError: a rule is set, and the ML task is not binary
    """
    if rule is not None and task != "binary":
        raise SpecError(f"`threshold` is set, but a {task} model has no decision threshold. Remove `threshold`.")


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
    :param aside: the rows to choose the threshold on; ``None`` if the rule is a number
    :param part: name of the split part that the training reads; ``None`` for all rows
    :param exported: the ONNX export of the model
    :param progress: function that writes a message to the task's log
    :raises SpecError: the estimator sets a threshold as well
    :raises TrainingError: no threshold meets the rule
    """
    if contract.threshold != THRESHOLD:
        raise SpecError(
            f"`threshold` is set, and the estimator has its own threshold ({contract.threshold:g}). Remove `threshold`, or the "
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
