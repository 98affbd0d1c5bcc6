"""Check whether a training accepts weights of rows (``TrainOperator(sample_weight=...)``).

This module imports no heavy library, because DAG files import it while they are parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from airflow_mlops.core.base import Model, parse
from airflow_mlops.core.errors import SpecError

SampleWeight = Annotated[str, Field(min_length=1)]
"""Name of the column of weights."""


class _Declared(Model):
    sample_weight: SampleWeight


def refusal(trainer: Mapping[str, Any], *, finds_interval: bool) -> str | None:
    """Return why a training does not accept weights of rows, and what to do; ``None`` if it accepts weights.

    :param trainer: the fields of the trainer
    :param finds_interval: whether the training computes prediction intervals
    """
    if trainer.get("kind") == "search":
        return "a Search does not support `sample_weight`, because its trials would be fitted without it; remove `sample_weight`"
    if trainer.get("kind") == "torch" and trainer.get("dataset"):
        return (
            "a TorchTrainer with dataset= does not support `sample_weight`, because a Dataset may change the number of rows; remove "
            "dataset=, or weigh the rows in the loss of your module"
        )
    if finds_interval:
        return "`sample_weight` is set, but the margin of prediction intervals is found on rows without weights; remove one of the two"
    return None


def check_sample_weight(where: str, declared: Any, trainer: Any, interval: Any) -> None:
    """Validate the column of weights in a DAG file. The other parameters must already be validated.

    :param where: start of the error message, such as ``The sample weight of task 'train'``
    :param declared: the declared column of weights
    :param trainer: the declared trainer; a template is not checked
    :param interval: the declared prediction intervals; a template is not checked
    :raises SpecError: ``declared`` is not a column name, or the training does not accept weights
    """
    fields = trainer if isinstance(trainer, Mapping) else {}
    problem = refusal(fields, finds_interval=interval is not None)
    if problem is not None:
        raise SpecError(f"{where} cannot be used: {problem}.")
    parse(_Declared, {"sample_weight": declared}, where)
