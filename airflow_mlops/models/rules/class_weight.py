"""The weights of classes in a training, as ``TrainOperator(class_weight=...)`` declares them.

This module imports no heavy library, because DAG files import it while they are parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model, parse

_Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _as_declared(declared: Any) -> Any:
    if declared is None or declared == "balanced":
        return declared
    if not isinstance(declared, Mapping) or not declared:
        raise ValueError(f"{declared!r} is not a class weight; use 'balanced' or a mapping from class to weight")
    if flags := [key for key, value in declared.items() if isinstance(value, bool)]:
        raise ValueError(f"the weight of the class {flags[0]!r} is a boolean; use a number")
    # Keys in JSON are always text.
    weights = {str(key): value for key, value in declared.items()}
    if len(weights) < len(declared):
        raise ValueError("it names a class twice, as a text and as another type; name each class once")
    return weights


ClassWeight = Annotated[Literal["balanced"] | dict[str, _Weight] | None, BeforeValidator(_as_declared)]
"""``balanced``, a mapping from class (as text) to weight, or ``None``."""


class _Declared(Model):
    class_weight: ClassWeight


def check_class_weight(declared: Any, where: str) -> None:
    """Validate class weights in a DAG file.

    :param declared: the declared class weights
    :param where: start of the error message, such as ``The class weight of task 'train'``
    :raises SpecError: ``declared`` is neither ``balanced`` nor a mapping from class to a number greater than 0
    """
    parse(_Declared, {"class_weight": declared}, where)
