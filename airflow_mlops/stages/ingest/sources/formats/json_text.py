"""Replace JSON values with their text, so that columns can be converted to declared types that Arrow would refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")


class JsonNumber(str):
    """The text of a JSON number. A JSON string is a plain ``str``."""


DECODER = json.JSONDecoder(parse_int=JsonNumber, parse_float=JsonNumber)
"""Decoder that keeps the text of numbers."""


def kind_of(value: Any) -> str:
    """Return Arrow's name of the kind of a JSON value that :data:`DECODER` has decoded."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (JsonNumber, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def with_text_values(line: bytes, names: Container[str]) -> bytes:
    """Return a JSON object in which the values of the keys ``names`` are JSON strings.

    Strings and null are unchanged. Any other value becomes a string that contains the value's JSON text as it is in the
    file. Text that is not a JSON object is returned unchanged.
    """
    text = line.decode()
    parts, end = [], 0
    try:
        for name, start, stop in _members(text):
            value = text[start:stop]
            if name in names and value[:1] != '"' and value != "null":
                parts += [text[end:start], json.dumps(value)]
                end = stop
    except ValueError:
        return line
    return "".join([*parts, text[end:]]).encode()


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each key of a JSON object, and the positions at which its value starts and ends.

    :raises ValueError: the text is not a JSON object
    """
    at = _expect(text, 0, "{")
    while text[at : at + 1] == '"':
        name, at = DECODER.raw_decode(text, at)
        start = _expect(text, at, ":")
        _, end = DECODER.raw_decode(text, start)
        yield name, start, end
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)


def _expect(text: str, at: int, character: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != character:
        raise ValueError(f"{character} is expected")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
