"""Describe schemas of Arrow as text, so that another machine uses exactly the same types."""

from __future__ import annotations

import base64

import pyarrow as pa


def to_text(schema: pa.Schema) -> str:
    """Return a text from which :func:`from_text` returns the schema again."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def from_text(text: str) -> pa.Schema:
    """Return the schema that :func:`to_text` described."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
