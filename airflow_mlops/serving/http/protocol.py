"""The Open Inference Protocol (version 2, REST), with the extension for binary tensors that its clients use by default.

Source: https://github.com/kserve/open-inference-protocol, and the "binary tensor data extension" of Triton Inference
Server.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.columns import INTERVAL_COLUMNS
from airflow_mlops.metrics.interval_ends import ends
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving.versions.loaded import Served

if TYPE_CHECKING:
    from airflow_mlops.serving.rows.request import Rows
_DATATYPES = {"number": "FP64", "integer": "INT64", "string": "BYTES"}
_NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_WHOLE = {name for name, code in _NUMPY.items() if "f" not in code}
# Smallest and largest number of each datatype, except for those whose range is that of the features.
_RANGES = {
    "BOOL": (0, 1),
    "FP16": (-65504.0, 65504.0),
    "FP32": (float(np.finfo("f4").min), float(np.finfo("f4").max)),
} | {name: (int(np.iinfo(_NUMPY[name]).min), int(np.iinfo(_NUMPY[name]).max)) for name in _WHOLE - {"BOOL"}}


def metadata(served: Served, versions: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of a model: its inputs, one for each feature, and its outputs.

    :param served: the loaded version
    :param versions: numbers of all loaded versions
    """
    contract = served.model.contract
    outputs = [("prediction", _label_type(contract)), ("score", "FP64")]
    if contract.interval is not None:
        outputs += [(name, "FP64") for name in INTERVAL_COLUMNS]
    return {
        "name": served.ref.model,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": feature.name, "datatype": _DATATYPES[feature.kind], "shape": [-1, 1]}
            for feature in contract.features
        ],
        "outputs": [
            *({"name": name, "datatype": kind, "shape": [-1, 1]} for name, kind in outputs),
            *(
                [{"name": "probabilities", "datatype": "FP64", "shape": [-1, len(contract.classes)]}]
                if contract.classes
                else []
            ),
        ],
    }


def read(body: Mapping[str, Any], binary: memoryview, served: Served) -> Rows:
    """Read the inputs of a request.

    :param body: the JSON object of the request
    :param binary: the bytes after the JSON object, with the data of binary inputs in their order
    :param served: the version that answers
    :raises SchemaError: an input is missing, unknown, or of a wrong shape or type
    """
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(item, dict) for item in inputs):
        raise SchemaError("The request has no list `inputs`. Send one input for each feature of the model.")
    columns = served.columns
    features = {feature.name: feature.kind for feature in columns.features}
    found: dict[str, list[Any]] = {}
    as_bytes: set[str] = set()
    for item in inputs:
        name = item.get("name")
        if not isinstance(name, str):
            raise SchemaError(f"An input has the name {str(name)[:60]!r}, which is not text.")
        if name not in features and name not in columns.carried:
            raise SchemaError(
                f"The input {name[:60]!r} is unknown. The inputs are: {', '.join(sorted([*features, *columns.carried]))}."
            )
        if name in found:
            raise SchemaError(f"The request has the input {name!r} twice. Send each input once.")
        found[name], binary = _values(item, name, binary)
        if _parameters(item).get("binary_data_size") is not None:
            as_bytes.add(name)
    if len(binary):
        raise SchemaError(f"The body has {len(binary)} bytes after the JSON object that belong to no input.")
    if missing := [name for name in features if name not in found]:
        raise SchemaError(f"The input {missing[0]!r} is missing. It is a feature of the model.")
    lengths = {name: len(values) for name, values in found.items()}
    rows = lengths[next(iter(features))]
    if wrong := [name for name, length in lengths.items() if length != rows]:
        raise SchemaError(f"The input {wrong[0]!r} has {lengths[wrong[0]]} rows, but others have {rows}.")
    # Only binary data can contain infinite numbers.
    return columns.checked(found, found, rows, as_bytes)


def _values(item: Mapping[str, Any], name: str, binary: memoryview) -> tuple[list[Any], memoryview]:
    """Return the values of an input, and the binary data of the inputs after it."""
    shape, datatype = item.get("shape"), item.get("datatype")
    if (
        not isinstance(shape, list)
        or not shape
        or not all(type(size) is int and size >= 0 for size in shape)
        or any(size != 1 for size in shape[1:])
    ):
        raise SchemaError(
            f"The input {name!r} has the shape {str(shape)[:60]}, but must have the shape [rows, 1] or [rows]."
        )
    rows = shape[0]
    if not isinstance(datatype, str) or (datatype not in _NUMPY and datatype != "BYTES"):
        raise SchemaError(
            f"The input {name!r} has the datatype {str(datatype)[:60]!r}. Send one of {', '.join(_NUMPY)} or BYTES."
        )
    if "shared_memory_region" in _parameters(item):
        raise SchemaError(f"The input {name!r} has the parameter 'shared_memory_region', which is not supported.")
    size = _parameters(item).get("binary_data_size")
    if size is None:
        values = item.get("data")
        if not isinstance(values, list):
            raise SchemaError(f"The input {name!r} has no list `data`.")
        values = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
        kinds = set(map(type, values))
        if datatype in _WHOLE and float in kinds:
            raise SchemaError(
                f"The input {name!r} has the datatype {datatype}, but its data contains floating-point numbers."
            )
        if (kinds & {int, float, bool}) if datatype == "BYTES" else (str in kinds):
            what = "numbers" if datatype == "BYTES" else "texts"
            raise SchemaError(f"The input {name!r} has the datatype {datatype}, but its data contains {what}.")
        low, high = _RANGES.get(datatype, (None, None))
        if low is not None and any(type(value) in (int, float) and not low <= value <= high for value in values):
            raise SchemaError(
                f"The input {name!r} has the datatype {datatype}, but its data contains numbers outside the range of this type."
            )
    else:
        if "data" in item:
            raise SchemaError(f"The input {name!r} has both `data` and binary data. Send one of them.")
        if type(size) is not int or not 0 <= size <= len(binary):
            raise SchemaError(
                f"The input {name!r} has the binary_data_size {str(size)[:60]}, but the request has {len(binary)} bytes left for it."
            )
        values, binary = _decoded(bytes(binary[:size]), datatype, name), binary[size:]
    if len(values) != rows:
        raise SchemaError(f"The input {name!r} has {len(values)} values, but its shape is {str(shape)[:60]}.")
    return values, binary


def _decoded(data: bytes, datatype: str, name: str) -> list[Any]:
    try:
        if datatype != "BYTES":
            if datatype == "BOOL" and data.strip(b"\0\1"):
                raise ValueError(datatype)
            values = np.frombuffer(data, _NUMPY[datatype])
            # NaN stands for a missing number, as in NumPy. JSON requests send null.
            return [None if value != value else value for value in values.tolist()]
        texts, position = [], 0
        while position < len(data):
            (length,) = struct.unpack_from("<I", data, position)
            text = data[position + 4 : position + 4 + length]
            if len(text) < length:
                raise ValueError(length)
            texts.append(text.decode())
            position += 4 + length
    except (ValueError, struct.error):
        raise SchemaError(f"The binary data of the input {name!r} is not {datatype}.") from None
    return texts


def requested(body: Mapping[str, Any]) -> dict[str, bool]:
    """Return the outputs that a request names.

    :return: for each output, whether its data must be binary; empty if the request names no outputs
    :raises SchemaError: ``outputs`` has another form, or requests an extension that the server does not support
    """
    if "explain" in _parameters(body):
        raise SchemaError("`infer` returns no attributions. Send the rows to `predict` with `explain`.")
    by_default = _flag(_parameters(body), "binary_data_output")
    outputs = body.get("outputs")
    if outputs is None:
        return {}
    if not isinstance(outputs, list) or not all(isinstance(item, dict) for item in outputs):
        raise SchemaError("`outputs` is not a list of objects with the names of outputs.")
    found = {}
    for item in outputs:
        parameters = _parameters(item)
        if unsupported := [name for name in ("classification", "shared_memory_region") if parameters.get(name)]:
            raise SchemaError(
                f"The output {str(item.get('name'))[:60]!r} has the parameter {unsupported[0]!r}, which is not supported."
            )
        name = str(item.get("name"))
        if name in found:
            raise SchemaError(f"The request names the output {name[:60]!r} twice. Name each output once.")
        found[name] = _flag(parameters, "binary_data", by_default)
    return found


def _flag(parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise SchemaError(f"The parameter {name!r} must be true or false.")
    return value


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise SchemaError("`parameters` is not an object.")
    return parameters


def labels(found: Predictions) -> list[Any]:
    """Return the predictions as Python values. The class of a row whose score is NaN is ``None``, as it would be arbitrary."""
    values: list[Any] = found.prediction.tolist()
    if found.probabilities is None or not (unknown := np.isnan(found.score)).any():
        return values
    return [None if without else value for value, without in zip(values, unknown, strict=True)]


def answer(
    served: Served, found: Predictions, request_id: str, body: Mapping[str, Any]
) -> tuple[dict[str, Any], list[bytes]]:
    """Return the response with the predictions: the JSON object, and the binary data of the outputs after it.

    :param served: the version that has answered
    :param found: the predictions
    :param request_id: id of the request
    :param body: the JSON object of the request, which may name outputs and request binary data for them
    :raises SchemaError: there is no output of this name
    """
    contract, rows = served.model.contract, len(found.score)
    label = _label_type(contract)
    values = labels(found)
    if label == "BYTES":
        values = [None if value is None else str(value) for value in values]
    outputs = {
        "prediction": (label, [rows, 1], values),
        "score": ("FP64", [rows, 1], found.score.tolist()),
    }
    if contract.interval is not None:
        named = zip(INTERVAL_COLUMNS, ends(contract.interval, found.score), strict=True)
        outputs |= {name: ("FP64", [rows, 1], end.tolist()) for name, end in named}
    if found.probabilities is not None:
        outputs["probabilities"] = ("FP64", list(found.probabilities.shape), found.probabilities.ravel().tolist())
    wanted = requested(body) or dict.fromkeys(outputs, _flag(_parameters(body), "binary_data_output"))
    if unknown := [name for name in wanted if name not in outputs]:
        raise SchemaError(f"The model has no output {unknown[0][:60]!r}. Its outputs are {', '.join(outputs)}.")
    described, buffers = [], []
    for name, binary in wanted.items():
        datatype, shape, data = outputs[name]
        if binary and datatype != "FP64" and None in data:
            raise SchemaError(
                f"Row {data.index(None) + 1} has no score, so its {name} is null, which binary data of the type {datatype} "
                "cannot represent. Request it as JSON."
            )
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            buffers.append(_encoded(data, datatype))
            tensor["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            tensor["data"] = data
        described.append(tensor)
    return {
        "model_name": served.ref.model,
        "model_version": str(served.ref.version),
        "id": request_id,
        "outputs": described,
    }, buffers


def _encoded(data: Sequence[Any], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.asarray(data, _NUMPY[datatype]).tobytes()
    texts = [text.encode() for text in data]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _label_type(contract: ModelContract) -> str:
    if contract.task == "regression":
        return "FP64"
    kinds = set(map(type, contract.classes))
    if kinds == {bool}:
        return "BOOL"
    return "INT64" if kinds == {int} else "FP64" if kinds <= {int, float} else "BYTES"
