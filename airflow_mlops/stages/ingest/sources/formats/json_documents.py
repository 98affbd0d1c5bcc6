"""Find the records in JSON documents.

The records are the elements of an array, or a sequence of objects. The array can be the value of a key.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.sources.formats.text import Block

# Numbers stay text, because their values are not needed. Python refuses to convert numbers with thousands of digits.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = re.compile("[ \\t\\n\\r]*")


def records(file: SourceFile, chunks: Iterator[bytes], path: Sequence[str] | None) -> Iterator[Block]:
    """Yield the records of a JSON document as JSON lines, in blocks.

    :param file: the file, for error messages
    :param chunks: content of the file in UTF-8
    :param path: keys from the outermost object to the array of records; ``None`` if the document is an array or a
        sequence of objects; empty if the document is one record
    :return: blocks of lines. ``line`` of a block is the number of its first record in the document, from 1
    :raises MalformedFileError: the document is not JSON
    :raises SchemaError: an element of the array is not an object; or ``record_path`` is not set, although the document
        is a single object that contains an array of objects, or objects with the same keys
    :raises SpecError: the document has no key of ``path``
    """
    block: list[bytes] = []
    first, size = 1, 0
    for record in _Document(file, chunks).records(path):
        block.append(record)
        size += len(record)
        if size >= source_file.BLOCK_BYTES:
            yield Block(b"\n".join(block), first)
            first, size, block = first + len(block), 0, []
    if block:
        yield Block(b"\n".join(block), first)


class _Document:
    """A JSON document that is decoded value by value.

    :param file: the file, for error messages
    :param chunks: content of the file in UTF-8
    """

    def __init__(self, file: SourceFile, chunks: Iterator[bytes]) -> None:
        self._file = file
        self._chunks = chunks
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._line = 1
        self._ended = False

    def records(self, path: Sequence[str] | None) -> Iterator[bytes]:
        """Yield the JSON text of each record, without line breaks."""
        if path:
            yield from self._under(path)
        elif self._peek() == "[":
            yield from self._array()
        else:
            yield from self._sequence(is_row=path is not None)
        if self._peek():
            raise self._malformed("has text after the end of the document")

    def _under(self, path: Sequence[str]) -> Iterator[bytes]:
        """Yield the records of the array at the keys ``path`` in the object at the current position."""
        if not path:
            yield from self._array()
            return
        key, found = path[0], False
        self._expect("{")
        more = self._peek() != "}"
        while more:
            if self._peek() != '"':
                raise self._malformed("has a key that is not text")
            name, _ = self._value()
            self._expect(":")
            if name != key:
                self._value()
            elif found:
                raise self._malformed(f"has the key {key!r} twice in one object")
            else:
                found = True
                yield from self._under(path[1:])
            more = self._peek() == ","
            self._at += more
        self._expect("}")
        if not found:
            raise SpecError(f"{self._file.url} has no key {key!r}. Correct `record_path`.")

    def _array(self) -> Iterator[bytes]:
        self._expect("[")
        more, number = self._peek() != "]", 0
        while more:
            number += 1
            value, text = self._value()
            if not isinstance(value, dict):
                raise SchemaError(
                    f"Element {number:,} of the array in {self._file.url} is not an object. Each element must be an "
                    "object with the columns as keys."
                )
            yield text
            more = self._peek() == ","
            self._at += more
        self._expect("]")

    def _sequence(self, *, is_row: bool) -> Iterator[bytes]:
        number = 0
        while (following := self._peek()) == "{":
            number += 1
            value, text = self._value()
            if number == 1 and not is_row and not self._peek() and (paths := list(_arrays(value))):
                raise SchemaError(
                    f"{self._file.url} contains one object with an array of objects. Set record_path={_short(paths[0])!r} to "
                    "read the records of the array, or record_path=[] to read the object as one row."
                )
            if number == 1 and not is_row and not self._peek() and _is_by_column(value):
                raise SchemaError(
                    f"{self._file.url} contains one object whose values are objects with the same keys, as pandas writes a "
                    "table by default. Write the file with to_json(orient='records'), or set record_path=[] to read the "
                    "object as one row."
                )
            yield text
        if following:
            raise self._malformed("is neither a sequence of JSON objects nor an array of JSON objects")

    def _peek(self) -> str:
        """Return the next character that is not whitespace, without consuming it; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr] # it matches the empty text
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _expect(self, character: str) -> None:
        found = self._peek()
        if found != character:
            raise self._malformed(f"has {found!r} where {character!r} is expected" if found else "ends too early")
        self._at += 1

    def _value(self) -> tuple[Any, bytes]:
        """Decode the next value. Return the value and its JSON text without line breaks."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self._malformed("is nested too deeply") from None
            except json.JSONDecodeError as error:
                # If the text so far ends inside a value, decoding fails at its end or at the start of its last string.
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                if not cut or not self._fill():
                    self._at = min(error.pos, len(self._text))
                    raise self._malformed(f"is not JSON: {error.msg}") from None
            else:
                if end < len(self._text) or not self._fill():
                    text, self._at = self._text[self._at : end], end
                    return value, text.replace("\n", " ").replace("\r", " ").encode("utf-8", "surrogatepass")

    def _fill(self) -> bool:
        """Read more text from the file, and return whether the file had more text."""
        if self._ended:
            return False
        waiting = self._text[self._at :]
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at = waiting, 0
        if len(waiting) > source_file.MAX_RECORD_BYTES:
            raise self._malformed(f"contains a value of more than {source_file.MAX_RECORD_BYTES >> 20} MB")
        # The text is at least doubled each time, because a long value is decoded again from its beginning.
        size, parts = 0, []
        while not self._ended and size <= len(waiting):
            chunk = next(self._chunks, b"")
            self._ended = not chunk
            try:
                parts.append(self._decoder.decode(chunk, final=self._ended))
            except UnicodeDecodeError:
                raise self._malformed("contains text that is not UTF-8") from None
            size += len(chunk)
        self._text += "".join(parts)
        return size > 0

    def _malformed(self, problem: str) -> Exception:
        line = self._line + self._text.count("\n", 0, self._at)
        return self._file.malformed(
            f"{problem} (line {line})", "Correct the file, or set `format` to the format of the file."
        )


def _short(path: list[str]) -> str | list[str]:
    return path[0] if len(path) == 1 else path


def _is_by_column(value: dict[str, Any]) -> bool:
    """Return whether a JSON object is a table, as ``{"column": {"0": 1, "1": 2}}`` of ``pandas.DataFrame.to_json``."""
    items = list(value.values())
    if not items or not all(isinstance(item, dict) and item and item.keys() == items[0].keys() for item in items):
        return False
    return len(items) > 1 or list(items[0]) == [str(number) for number in range(len(items[0]))]


def _arrays(value: Any, path: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """Yield the path of each array of objects in a JSON object: the keys from the outermost object to the array."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _arrays(item, (*path, key))
        elif isinstance(item, list) and item and all(isinstance(element, dict) for element in item):
            yield [*path, key]
