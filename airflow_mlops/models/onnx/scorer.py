"""Score with the ONNX export of a registered model. Loading an ONNX file runs no code, and reads no other file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.cpus import available_cpus
from airflow_mlops.core.errors import ModelFormatError, SchemaError
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models.contract_file import CONTRACT_FILE, read_contract
from airflow_mlops.models.onnx import tokens
from airflow_mlops.models.onnx.embedded import require_embedded
from airflow_mlops.models.onnx.feeds import Input, as_input, feed, singles, slices, texts
from airflow_mlops.models.onnx.matrices import with_matrices
from airflow_mlops.models.scorer import class_labels, from_values

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

MODEL_FILE = "model.onnx"

# Rows per call of ONNX Runtime, so that wide intermediate tensors (one-hot columns) fit into the processor's cache.
_ROWS = 4096
# A model with at least this number of features is changed to take them as matrices.
_WIDE = 64


class OnnxModel:
    """The ONNX export of a registered model, with its contract (features, label, ML task). Instances are thread-safe.

    :param model: the serialised ONNX model
    :param contract: the model contract
    :raises ModelFormatError: ONNX Runtime cannot load the model, the values of the model are in other files, or an
        input of the model is not a feature of the contract
    :raises SpecError: the model contains a tokenizer, and the library tokenizers is not installed
    """

    def __init__(self, model: bytes, contract: ModelContract) -> None:
        import onnxruntime

        require_embedded(model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Each thread runs the whole graph on its own rows. ONNX Runtime's own threads, which split every operator, need
        # about twice as much processor time.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        content, self._matrices = with_matrices(model) if len(contract.features) >= _WIDE else (model, [])
        try:
            session: InferenceSession = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelFormatError(
                f"ONNX Runtime cannot load the model: {error}. Train the model again, or install the onnxruntime version "
                "with which the model was trained."
            ) from error
        tokenizer = session.get_modelmeta().custom_metadata_map.get(tokens.TOKENIZER)
        self._session: InferenceSession = (
            session if tokenizer is None else tokens.TokenizedSession(session, tokenizer, contract.features)
        )
        self._rows = _ROWS if tokenizer is None else tokens.ROWS
        self.contract = contract
        self.size_bytes = len(model)
        self._labels = class_labels(contract)
        joined = {matrix.name for matrix in self._matrices}
        self._inputs = [Input(node.name, node.type) for node in self._session.get_inputs() if node.name not in joined]
        columns = (name for matrix in self._matrices for name in matrix.columns)
        self._names = [*columns, *(node.name for node in self._inputs)]
        self._numeric = [node for node in self._inputs if node.type != "tensor(string)"]
        self._numeric_names = [node.name for node in self._numeric]
        self._textual = [node for node in self._inputs if node.type == "tensor(string)"]
        known = {feature.name for feature in contract.features}
        if unknown := [name for name in self._names if name not in known]:
            raise ModelFormatError(
                f"The ONNX model has the input {unknown[0]!r}, which is not a feature in {CONTRACT_FILE}. Train the model "
                "again."
            )
        # For a classifier, only the probabilities are computed. The label is determined by the probabilities and the
        # threshold.
        outputs = [node.name for node in self._session.get_outputs()]
        self._output = outputs[0] if contract.task == "regression" else outputs[-1]

    @classmethod
    def load(cls, folder: Path) -> OnnxModel:
        """Load the model from the folder of its version.

        :param folder: the downloaded files, see :func:`airflow_mlops.registry.versions.download`
        :raises ModelFormatError: the folder contains no ONNX model or no contract
        """
        contract = read_contract(folder)
        try:
            return cls((Path(folder) / MODEL_FILE).read_bytes(), contract)
        except FileNotFoundError:
            raise ModelFormatError(
                f"The model folder {folder} has no file {MODEL_FILE}, which scoring needs. Train the model with "
                "TrainOperator."
            ) from None

    @property
    def engine(self) -> str:
        """Return the name of the engine that computes the predictions, for logs and reports."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__} ({self._session.get_providers()[0]})"

    def predict(self, data: pa.RecordBatch | pa.Table) -> Predictions:
        """Predict every row of ``data``. Columns may be in any order, and other columns are ignored.

        :raises SchemaError: a feature is absent, or its type differs from the type in training
        """
        return self._run(data.num_rows, self._feeds(data))

    def _feeds(self, data: pa.RecordBatch | pa.Table) -> dict[str, Callable[[int, int], NDArray[Any]]]:
        """Return a function ``(start, end)`` for each input that returns these rows of the input."""
        matrices = {matrix.name: matrix.feed(data) for matrix in self._matrices}
        return matrices | {node.name: feed(data, node) for node in self._inputs}

    def shuffled(self, data: pa.Table) -> Callable[[str, NDArray[np.int64]], Predictions]:
        """Return a function that predicts ``data`` after the values of one feature were reordered.

        :raises SchemaError: a feature is absent, or its type differs from the type in training
        """
        rows = data.num_rows
        feeds = {name: found(0, rows) for name, found in self._feeds(data).items()}
        if rows < 2:
            return lambda name, order: self.predict(data)
        if isinstance(self._session, tokens.TokenizedSession):
            # Each prediction depends on one text only, so that reordered texts have reordered predictions.
            found = self._computed(rows, {name: slices(array) for name, array in feeds.items()})
            return lambda name, order: self._predictions(found[order] if name in feeds else found)
        # Only numeric inputs can be bound to the session.
        compute = self._bound(feeds) if len(self._numeric) == len(self._inputs) else self._fed(feeds)
        places = {name: (matrix.name, place) for matrix in self._matrices for place, name in enumerate(matrix.columns)}

        def predict(name: str, order: NDArray[np.int64]) -> Predictions:
            if name not in places:
                # A model need not use every feature.
                output = compute({name: feeds[name][order]} if name in self._names else {})
                return self._predictions(self._checked(output, rows))
            matrix, place = places[name]
            column = feeds[matrix][:, place].copy()
            feeds[matrix][:, place] = column[order]
            try:
                output = compute({matrix: feeds[matrix]})
            finally:
                feeds[matrix][:, place] = column
            return self._predictions(self._checked(output, rows))

        return predict

    def _fed(self, feeds: dict[str, NDArray[Any]]) -> Callable[[dict[str, NDArray[Any]]], Any]:
        """Return a function that computes the output of the model.

        The function takes the values of some inputs, by name. The values of all other inputs come from ``feeds``.
        """
        return lambda replaced: self._session.run([self._output], {**feeds, **replaced})[0]

    def _bound(self, feeds: dict[str, NDArray[Any]]) -> Callable[[dict[str, NDArray[Any]]], Any]:
        """Return the same function as :meth:`_fed`. All inputs must be numeric, and stay bound to the session.

        ONNX Runtime then converts and checks only the inputs that the function replaces. For a model with many inputs,
        this is several times faster.
        """
        binding = self._session.io_binding()
        binding.bind_output(self._output)

        def bind(values: dict[str, NDArray[Any]]) -> None:
            for name, array in values.items():
                binding.bind_cpu_input(name, array)

        def compute(replaced: dict[str, NDArray[Any]]) -> Any:
            bind(replaced)
            self._session.run_with_iobinding(binding)
            bind({name: feeds[name] for name in replaced})
            return binding.copy_outputs_to_cpu()[0]

        bind(feeds)
        return compute

    def predict_values(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]], rows: int) -> Predictions:
        """Predict rows that are given as Python values, which takes less time than :meth:`predict` for few rows.

        The predictions are equal to the predictions of :meth:`predict` for Arrow columns with the same values.

        :param columns: values of each feature, by name: int, float or ``None`` for a numeric input, int for an integer
            input, and str or ``None`` for a text input. The values of a numeric input may be an array of doubles
        :param rows: number of rows
        :raises SchemaError: a feature is absent, or null although the model allows no nulls
        """
        if missing := [name for name in self._names if name not in columns]:
            raise SchemaError(f"The data has no column {missing[0]!r}, which is a feature of the model.")
        if rows == 1:
            # A single row is computed twice, as explained in `_values`. Lists are repeated in less time than arrays.
            columns = {name: [columns[name][0]] * 2 for name in self._names}
        feeds = {matrix.name: matrix.of_values(columns) for matrix in self._matrices}
        if self._numeric:
            numbers = singles(columns, self._numeric_names)
            for each, node in zip(numbers[:, :, None], self._numeric, strict=True):
                feeds[node.name] = each if node.type == "tensor(float)" else as_input(each, node)
        for node in self._textual:
            feeds[node.name] = texts(columns[node.name])
        if rows == 1:
            return self._predictions(self._values(feeds, 2)[:1])
        if 0 < rows <= self._rows:
            return self._predictions(self._values(feeds, rows))
        return self._run(rows, {name: slices(array) for name, array in feeds.items()})

    def _run(self, rows: int, feeds: Mapping[str, Callable[[int, int], NDArray[Any]]]) -> Predictions:
        return self._predictions(self._computed(rows, feeds))

    def _computed(self, rows: int, feeds: Mapping[str, Callable[[int, int], NDArray[Any]]]) -> NDArray[np.float64]:
        width = max(1, len(self.contract.classes))
        found = np.empty((rows, width), dtype=np.float64)

        def run(start: int) -> None:
            end = min(start + self._rows, rows)
            found[start:end] = self._values({name: feed(start, end) for name, feed in feeds.items()}, end - start)

        starts = range(0, rows, self._rows)
        if len(starts) > 1 and (cpus := available_cpus()) > 1:
            with ThreadPoolExecutor(cpus) as threads:
                list(threads.map(run, starts))
        else:
            for start in starts:
                run(start)
        return found

    def _values(self, feeds: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
        """Return the output of the model for a few rows, shape (rows, classes or 1).

        A single row is computed twice in one matrix, because ONNX Runtime multiplies a matrix of one row by a method
        whose sums differ in the last bit.
        """
        if rows == 1:
            return self._values({name: np.repeat(feed, 2, axis=0) for name, feed in feeds.items()}, 2)[:1]
        (output,) = self._session.run([self._output], feeds)
        return self._checked(output, rows)

    def _checked(self, output: NDArray[Any], rows: int) -> NDArray[np.float64]:
        """Return an output of the model as an array of shape (rows, classes or 1)."""
        width = max(1, len(self.contract.classes))
        if output.size != rows * width:
            raise ModelFormatError(
                f"The ONNX model returned an array of shape {output.shape}, but must return shape ({rows}, {width}) for "
                f"{rows:,} rows. Train the model again."
            )
        values: NDArray[np.float64] = output.reshape(-1, width).astype(np.float64)
        return values

    def _predictions(self, found: NDArray[np.float64]) -> Predictions:
        return from_values(found, self.contract, self._labels)
