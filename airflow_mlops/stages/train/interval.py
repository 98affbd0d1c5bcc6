"""Set the prediction intervals of a candidate by the rule of the training (``interval=``).

The margin is computed from rows that :mod:`airflow_mlops.stages.train.aside` sets aside. Their predictions come from
the ONNX export, because scoring adds the margin to predictions of the export.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from airflow_mlops.core.contract import ModelContract, PredictionInterval, Task
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models import conformal
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.rules.interval import IntervalRule
from airflow_mlops.stages.train.aside import SetAside


def check_task(rule: IntervalRule | None, task: Task) -> None:
    """Check that a model of the ML task predicts numbers.

    :raises SpecError: prediction intervals are set, and the ML task is a classification
    """
    if rule is not None and task != "regression":
        raise SpecError(
            f"`interval` is set, but a {task} model predicts classes, which have no prediction interval. Remove `interval`."
        )


def with_interval(
    rule: IntervalRule,
    contract: ModelContract,
    aside: SetAside | None,
    part: str | None,
    exported: bytes,
    progress: Callable[[str], None],
) -> ModelContract:
    """Return the contract of a regression with prediction intervals.

    :param rule: the coverage of the intervals
    :param contract: contract of the model without intervals
    :param aside: the rows whose residuals determine the margin; ``None`` if the rule contains the margin of an earlier
        training
    :param part: name of the split part that the training reads; ``None`` for all rows
    :param exported: the ONNX export of the model
    :param progress: function that writes a message to the task's log
    :raises TrainingError: a prediction or the margin is not a finite number
    """
    if aside is None:
        assert rule.margin is not None
        return contract.model_copy(update={"interval": PredictionInterval(coverage=rule.coverage, margin=rule.margin)})
    model = OnnxModel(exported, contract)
    value = np.concatenate([batch.score for batch in aside.predictions(model, part)])
    truth = aside.labels(contract, part)
    with np.errstate(over="ignore", invalid="ignore"):
        margin = conformal.margin(truth, value, rule.coverage)
    if not np.isfinite(value).all() or not np.isfinite(margin):
        raise TrainingError(
            f"The width of the prediction intervals, computed from {len(truth):,} rows ({aside.source}), is not a finite number. Check "
            "the labels and the features of these rows, or remove `interval`."
        )
    found = PredictionInterval(coverage=rule.coverage, margin=margin, rows=len(truth), source=aside.source)
    progress(
        f"A prediction interval is the prediction ± {margin:.6g} (coverage {found.coverage:g}). The margin is a quantile of the "
        f"residuals of {found.rows:,} training rows that the model was not fitted to ({aside.source})."
    )
    return contract.model_copy(update={"interval": found})
