"""Messages between the server and its other processes: two lengths, then a JSON value and Arrow data."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

import pyarrow as pa

_LENGTHS = struct.Struct(">II")


def packed(head: Any, batch: pa.RecordBatch) -> bytes:
    """Return a message.

    :param head: a JSON value
    :param batch: the Arrow data
    """
    first = json.dumps(head).encode()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body = sink.getvalue()
    return _LENGTHS.pack(len(first), body.size) + first + body.to_pybytes()


def unpacked(source: BinaryIO) -> tuple[Any, pa.Table] | None:
    """Read a message that :func:`packed` has created.

    :return: the JSON value and the Arrow data; ``None`` at the end of the input, also after an incomplete message
    """
    lengths = source.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_size, body_size = _LENGTHS.unpack(lengths)
    head, body = source.read(head_size), source.read(body_size)
    if len(body) < body_size:
        return None
    return json.loads(head), pa.ipc.open_stream(body).read_all()
