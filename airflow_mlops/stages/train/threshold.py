"""Set the decision threshold of a candidate by the rule of the training (``threshold=``).

If the training has a column of weights, each row counts by its weight, as in the gates.

The threshold is chosen on rows that :mod:`airflow_mlops.stages.train.aside` sets aside. It is chosen by the scores of
the ONNX export, because scoring compares these scores with the threshold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from airflow_mlops.core.contract import THRESHOLD, ModelContract, Task, ThresholdChoice
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.cost_columns import read_costs
from airflow_mlops.data.sample_weights import sample_weights
from airflow_mlops.metrics.rows import is_positive
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.rules.threshold import ThresholdRule
from airflow_mlops.models.threshold_choice import choose
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
    :raises TrainingError: no threshold meets the rule, or the rows with a weight above 0 are of one class
    :raises MetricColumnError: a column of costs is absent, or has values that are not costs
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
    score = np.concatenate([batch.score for batch in aside.predictions(model, part)])
    truth, weight = is_positive(aside.labels(contract, part), contract.classes, contract.positive), None
    costs = read_costs(aside.chosen, part, rule.cost_columns)
    if contract.sample_weight is not None:
        weight = sample_weights(aside.chosen, part, contract.sample_weight)
        counted = weight > 0
        truth, score, weight = truth[counted], score[counted], weight[counted]
        costs = {name: values[counted] for name, values in costs.items()}
        if truth.all() or not truth.any():
            raise TrainingError(
                f"A threshold is chosen on {len(truth):,} rows with a weight above 0 ({aside.source}), but all of them are of one class. "
                "Use more rows, or give `threshold` as a number."
            )
    value, choice = choose(rule, truth, score, aside.source, weight, costs)
    point = choice.point
    assert point is not None
    by = "" if contract.sample_weight is None else f", by the weights in column {contract.sample_weight!r}"
    precision = "undefined" if point.precision is None else f"{point.precision:.4g}"
    progress(
        f"The decision threshold is {value:.6g} ({rule}), chosen on {choice.rows:,} training rows that the model was not fitted to "
        f"({aside.source}). There, precision is {precision}, recall {point.recall:.4g}, and {point.positives:.2%} of the rows are "
        f"predicted to be positive{by}."
    )
    return contract.model_copy(update={"threshold": value, "threshold_choice": choice})
