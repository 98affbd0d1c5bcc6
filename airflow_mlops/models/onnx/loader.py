"""MLflow's loader for stored networks and boosted trees.

Each stored model contains a copy of this file. The file therefore does not import this package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = "tensor(float)"


def _load_pyfunc(path: str) -> _Network:
    """Load the network. MLflow calls this function with the path of the ONNX model."""
    return _Network(Path(path))


class _Network:
    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        self._contract = json.loads((path.parent / "mlops" / "contract.json").read_bytes())

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Predict the class of each row, or the value for a regression."""
        feeds = {}
        for node in self._session.get_inputs():
            values = data[node.name]
            given = (
                values.to_numpy(np.float32, na_value=np.nan)
                if node.type == _NUMBER
                else values.astype(object).where(values.notna(), "").to_numpy()
            )
            feeds[node.name] = given.reshape(-1, 1)
        (found,) = self._session.run(None, feeds)
        if not self._contract["classes"]:
            return found[:, 0].astype(np.float64)
        classes, positive = self._contract["classes"], self._contract["positive"]
        if positive is None:
            places = found.argmax(axis=1)
        else:
            place = classes.index(positive)
            places = np.where(found[:, place] >= self._contract["threshold"], place, 1 - place)
        return np.asarray(classes, object if isinstance(classes[0], str) else None)[places]
