"""Run an ONNX model that contains its tokenizer, such as a text classifier.

The graph of such a model takes token ids. The tokenizer is an entry of the model's metadata, in the format of the file
``tokenizer.json`` of the library tokenizers. It includes the maximum length at which texts are truncated. A model is
therefore still one file, and the tokenizer is data: loading it runs no code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from airflow_mlops.core.errors import ModelFormatError, SpecError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from airflow_mlops.core.contract import FeatureColumn

TOKENIZER = "tokenizer.json"
# Inputs of the graph, and the attributes of tokenizers.Encoding with their values.
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
# Rows that are divided into calls of ONNX Runtime together. A call has at most _TOKENS tokens, or one row, because the
# memory of a transformer grows with the tokens.
ROWS, _TOKENS = 256, 2048


class _Node(NamedTuple):
    """An input of the session, as in ONNX Runtime."""

    name: str
    type: str


class TokenizedSession:
    """A session of ONNX Runtime whose input is one text feature. Instances are thread-safe.

    The rows of a call have equally many tokens. They need no padding, and the prediction of a row does not depend on
    the other rows. Equal texts are computed once.

    :param session: the session of the model's graph
    :param tokenizer: the tokenizer, in the format of ``tokenizer.json``
    :param features: the features of the model contract
    :raises ModelFormatError: the model has several features, or inputs other than tokens, or the tokenizer is invalid
    :raises SpecError: tokenizers is not installed
    """

    def __init__(self, session: InferenceSession, tokenizer: str, features: Sequence[FeatureColumn]) -> None:
        if [feature.kind for feature in features] != ["string"]:
            raise ModelFormatError(
                f"The ONNX model has a tokenizer, which needs one text feature, but its contract has {len(features)} features. "
                "Train the model again."
            )
        self._session = session
        self._feature = features[0].name
        self._inputs = [node.name for node in session.get_inputs()]
        if unknown := [name for name in self._inputs if name not in INPUTS]:
            raise ModelFormatError(
                f"The ONNX model has the input {unknown[0]!r}, which its tokenizer does not compute. Train the model again."
            )
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise SpecError(
                "The model needs tokenizers, which is not installed where the step runs. Install airflow-mlops[tokenizers] there."
            ) from error
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer)
        except Exception as error:
            raise ModelFormatError(
                f"The tokenizer of the model cannot be loaded: {one_line(error, 300)}. Install the tokenizers version with which "
                "the model was trained."
            ) from error

    def get_inputs(self) -> list[_Node]:
        return [_Node(self._feature, "tensor(string)")]

    def get_outputs(self) -> list[Any]:
        found: list[Any] = self._session.get_outputs()
        return found

    def get_providers(self) -> list[str]:
        found: list[str] = self._session.get_providers()
        return found

    def run(self, outputs: list[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute one output for n > 0 texts.

        :param outputs: the name of the output
        :param feeds: the texts by name of the feature, shape (n, 1)
        """
        places: dict[str, int] = {}
        rows = [places.setdefault(text, len(places)) for text in feeds[self._feature][:, 0]]
        # One at a time: encode_batch starts threads, which do not survive a fork.
        encodings = [self._tokenizer.encode(text) for text in places]
        groups: dict[int, list[int]] = {}
        for place, encoding in enumerate(encodings):
            groups.setdefault(len(encoding.ids), []).append(place)
        found: NDArray[Any] | None = None
        for length, group in groups.items():
            step = max(1, _TOKENS // max(1, length))
            for start in range(0, len(group), step):
                part = group[start : start + step]
                tokens = {
                    name: np.array([getattr(encodings[place], INPUTS[name]) for place in part], np.int64)
                    for name in self._inputs
                }
                (output,) = self._session.run(outputs, tokens)
                if found is None:
                    found = np.empty((len(encodings), *output.shape[1:]), output.dtype)
                found[part] = output
        assert found is not None
        return [found[rows]]
