"""MLflow's loader for stored networks, boosted trees and text classifiers.

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
# The metadata entry with the tokenizer of a text classifier, and the inputs that the tokenizer computes.
_TOKENIZER = "tokenizer.json"
_TOKENS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def _load_pyfunc(path: str) -> _Network:
    """Load the network. MLflow calls this function with the path of the ONNX model."""
    return _Network(Path(path))


class _Network:
    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        self._contract = json.loads((path.parent / "mlops" / "contract.json").read_bytes())
        self._tokenizer: Any = None
        if tokenizer := self._session.get_modelmeta().custom_metadata_map.get(_TOKENIZER):
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_str(tokenizer)

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Predict the class of each row, or the value for a regression."""
        found = self._by_tokens(data) if self._tokenizer else self._by_columns(data)
        if not self._contract["classes"]:
            return found[:, 0].astype(np.float64)
        classes, positive = self._contract["classes"], self._contract["positive"]
        if positive is None:
            places = found.argmax(axis=1)
        else:
            place = classes.index(positive)
            places = np.where(found[:, place] >= self._contract["threshold"], place, 1 - place)
        return np.asarray(classes, object if isinstance(classes[0], str) else None)[places]

    def _by_columns(self, data: pd.DataFrame) -> Any:
        feeds = {}
        for node in self._session.get_inputs():
            values = data[node.name]
            given = values.to_numpy(np.float32, na_value=np.nan) if node.type == _NUMBER else _texts(values)
            feeds[node.name] = given.reshape(-1, 1)
        return self._session.run(None, feeds)[0]

    def _by_tokens(self, data: pd.DataFrame) -> Any:
        """Return the probabilities of a text classifier. One text at a time needs no padding."""
        found = np.empty((len(data), len(self._contract["classes"])))
        for place, text in enumerate(_texts(data[self._contract["features"][0]["name"]])):
            encoding = self._tokenizer.encode(text)
            names = [node.name for node in self._session.get_inputs()]
            feeds = {name: np.array([getattr(encoding, _TOKENS[name])], np.int64) for name in names}
            found[place] = self._session.run(None, feeds)[0][0]
        return found


def _texts(values: pd.Series[Any]) -> Any:
    return values.astype(object).where(values.notna(), "").to_numpy()
