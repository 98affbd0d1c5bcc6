"""Check that an ONNX model is complete in itself, so that loading it reads no other file.

A tensor of an ONNX model may name a file that contains its values (external data), and a model can return such a tensor
as its output. Without this check, a registered model could return the content of any file of the machine that scores
it. TrainOperator never exports external data, so every model with external data is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import ModelFormatError, one_line

if TYPE_CHECKING:
    from onnx import TensorProto

# External data always has an entry with this key.
_KEY = b"location"
# Models in ONNX Runtime's own format have this identifier. They are not protobuf messages.
_ORT_FORMAT = slice(4, 8), b"ORTM"


def require_embedded(model: bytes) -> None:
    """Check that a serialised ONNX model contains the values of all of its tensors.

    Most models do not contain the key of external data anywhere, and are not parsed.

    :raises ModelFormatError: a tensor names a file, or the model is not in ONNX format
    """
    where, identifier = _ORT_FORMAT
    if model[where] == identifier:
        raise ModelFormatError(
            "The model is in ONNX Runtime's own format (ORT), which is not checked for references to files. Store the model in "
            "ONNX format."
        )
    if _KEY not in model:
        return
    import onnx

    try:
        parsed = onnx.load_from_string(model)
    except Exception as error:
        raise ModelFormatError(
            f"The model is not in ONNX format: {one_line(error, 300)}. Train the model again."
        ) from error
    for tensor in _tensors(parsed):
        if tensor.external_data or tensor.data_location != tensor.DEFAULT:
            names = [entry.value for entry in tensor.external_data if entry.key == _KEY.decode()]
            raise ModelFormatError(
                f"The values of tensor {tensor.name!r} of the ONNX model are in a different file ({', '.join(names) or 'unnamed'}), "
                "which could be any file of this machine. Store the model in one file, with its values "
                "(save_as_external_data=False)."
            )


def _tensors(model: Any) -> list[TensorProto]:
    """Return all tensors of the model, including those in attributes, inner graphs, functions and sparse tensors."""
    from onnx import TensorProto

    found: list[TensorProto] = []
    left: list[Any] = [model]
    while left:
        message = left.pop()
        if isinstance(message, TensorProto):
            found.append(message)
        for field, value in message.ListFields():
            if field.message_type is not None:
                # A repeated field of protobuf is a sequence of messages.
                left.extend([value] if hasattr(value, "ListFields") else value)
    return found
