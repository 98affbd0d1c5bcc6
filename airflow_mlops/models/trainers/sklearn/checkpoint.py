"""The checkpoint of a training by ``partial_fit``: the estimator after its last complete epoch, in skops format.

Loading runs no code of the checkpoint, because only types that skops trusts and those of the trainer are loaded.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

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
        is_loadable = _untrusted(content, spec, estimator) == []
    except Exception:  # noqa: BLE001 - estimators of any library
        is_loadable = False
    if not is_loadable:
        if epochs == 1:
            run.progress(f"No checkpoints are written, because skops cannot store {spec.label}. A retry starts again.")
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
    :return: the number of completed epochs, and the estimator after them; 0 and ``estimator`` without a checkpoint
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
    """Return the types of a file that are neither trusted by skops nor types of the trainer."""
    from skops.io import get_untrusted_types

    own = f"{type(estimator).__module__}.{type(estimator).__qualname__}"
    return [name for name in get_untrusted_types(data=content) if name not in {own, *_OPTIMIZERS, *spec.trusted_types}]
