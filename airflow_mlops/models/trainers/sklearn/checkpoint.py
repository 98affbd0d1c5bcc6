"""The checkpoint of a training by ``partial_fit``: the estimator after its last complete epoch, in skops format.

Loading runs no code of the checkpoint. Only these types are loaded: types that skops trusts, the class of the estimator,
the optimizers of scikit-learn's neural networks, and the trainer's ``trusted_types``.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

from airflow_mlops.core.errors import named, one_line
from airflow_mlops.models.trainers.base import TrainingRun
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec

_STATE, _CONTENT = "state.json", "estimator.skops"
# The state of a neural network of scikit-learn. skops does not know that these classes run no code.
_OPTIMIZERS = tuple(
    f"sklearn.neural_network._stochastic_optimizers.{name}Optimizer" for name in ("Adam", "SGD")
)  # fmt: skip


def write(run: TrainingRun, spec: SklearnTrainerSpec, estimator: Any, epochs: int) -> None:
    """Store a checkpoint, unless the estimator contains types that :func:`read` would not load.

    :param run: the training
    :param spec: the trainer
    :param estimator: the estimator
    :param epochs: number of completed epochs
    """
    from skops.io import dumps

    try:
        content = dumps(estimator)
        untrusted = _untrusted(content, spec, estimator)
    except Exception as error:  # noqa: BLE001 - estimators of any library
        reason = f"skops cannot store {spec.label} ({one_line(error, 200)}), so a retry starts again."
    else:
        reason = (
            f"skops does not trust the {named('type', untrusted)} of {spec.label}. A retry starts again. To write "
            "checkpoints, review the code and extend `trusted_types` of the trainer."
            if untrusted
            else ""
        )
    if reason:
        if epochs == 1:
            run.progress(f"No checkpoints are written, because {reason}")
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(_STATE, json.dumps({"epochs": epochs}))
        archive.writestr(_CONTENT, content)
    run.dataset.store.write_bytes(run.checkpoint, buffer.getvalue())


def read(run: TrainingRun, spec: SklearnTrainerSpec, estimator: Any) -> tuple[int, Any]:
    """Read the checkpoint.

    :param run: the training
    :param spec: the trainer
    :param estimator: the estimator, which is not fitted yet
    :return: the number of completed epochs, and the estimator after them; 0 and ``estimator`` if there is no checkpoint that
        may be loaded
    """
    from skops.io import get_untrusted_types, loads

    try:
        stored = run.dataset.store.read_bytes(run.checkpoint)
    except FileNotFoundError:
        return 0, estimator
    with zipfile.ZipFile(io.BytesIO(stored)) as archive:
        epochs, content = json.loads(archive.read(_STATE))["epochs"], archive.read(_CONTENT)
    if _untrusted(content, spec, estimator):
        return 0, estimator
    found = loads(content, trusted=get_untrusted_types(data=content))
    return (epochs, found) if type(found) is type(estimator) else (0, estimator)


def _untrusted(content: bytes, spec: SklearnTrainerSpec, estimator: Any) -> list[str]:
    """Return the names of the types in a checkpoint that may not be loaded, see the docstring of this module."""
    from skops.io import get_untrusted_types

    own = f"{type(estimator).__module__}.{type(estimator).__qualname__}"
    return [name for name in get_untrusted_types(data=content) if name not in {own, *_OPTIMIZERS, *spec.trusted_types}]
