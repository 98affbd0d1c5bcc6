"""Serialise ONNX models, with the same bytes in every process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto


def serialised(model: ModelProto) -> bytes:
    """Return the bytes of an ONNX model, with its operator sets in the order of their domains.

    skl2onnx (1.20) collects the operator sets in a Python set, whose order differs between processes. The order has no
    meaning in ONNX, but other bytes would make the same training a new version.

    :param model: the ONNX model, whose operator sets are sorted in place
    """
    model.opset_import.sort(key=lambda item: (item.domain, item.version))
    content: bytes = model.SerializeToString(deterministic=True)
    return content
