"""Store a model whose requirements are the installed packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_CHECK = "warn_dependency_requirement_mismatches"


@contextmanager
def without_check_of_requirements() -> Iterator[None]:
    """Skip MLflow's comparison of a model's requirements with the installed packages inside the block.

    The requirements of a candidate name the installed versions, so MLflow would find no difference. For its first
    comparison, a process lists the files of all installed packages, which takes 0.8 s of CPU time if there are 400.
    """
    from mlflow.utils import environment

    check = getattr(environment, _CHECK, None)
    if check is None:
        # This version of MLflow compares them elsewhere.
        yield
        return
    setattr(environment, _CHECK, lambda requirements: None)
    try:
        yield
    finally:
        setattr(environment, _CHECK, check)
