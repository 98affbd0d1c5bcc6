"""Removes spaces at the start of the values of a CSV file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from airflow_mlops.stages.ingest.sources.formats.csv_records import Rows


def without_initial_spaces(chunks: Iterator[bytes], rows: Rows) -> Iterator[bytes]:
    """Yield the text without the spaces that follow a separator or a line break, except inside quotes.

    :param chunks: text of the file
    :param rows: the format of the file
    """
    lines = _Lines(rows)
    waiting = b""
    for chunk in chunks:
        *whole, waiting = (waiting + chunk).split(b"\n")
        yield b"".join(lines.stripped(line) + b"\n" for line in whole)
    if waiting:
        yield lines.stripped(waiting)


class _Lines:
    """Removes the spaces line by line.

    :param rows: the format of the file
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        quote = re.escape(rows.quote())
        rest = rb"[^\r" + re.escape(rows.sep) + rb"]*[\r" + re.escape(rows.sep) + rb"]?"
        doubled = (rb"|" + quote * 2) if rows.options.doublequote else b""
        quoted = rb"(?:[^" + quote + rb"]+" + doubled + rb")*(?P<end>" + quote + rb"?)"
        self._value = re.compile(rb"(?P<spaces> *)" + (rb"(?:" + quote + quoted + rb")?" if quote else b"") + rest)
        self._rest_of_quoted = re.compile(quoted + rest) if quote else re.compile(rest)
        self._rest = re.compile(rest)
        self._inside_quotes = False
        self._escaped_break = False

    def stripped(self, line: bytes) -> bytes:
        """Return a line, without its line break, without the spaces at the start of its values."""
        masked = self._rows.masked(line)
        kept: list[bytes] = []
        at = 0
        if self._inside_quotes or self._escaped_break:
            found = (self._rest_of_quoted if self._inside_quotes else self._rest).match(masked)
            assert found is not None  # the pattern matches the empty text
            self._inside_quotes = self._inside_quotes and not found["end"]
            at = found.end()
            kept.append(line[:at])
        while at < len(masked):
            found = self._value.match(masked, at)
            assert found is not None  # the pattern matches the empty text
            self._inside_quotes = "end" in found.groupdict() and found["end"] == b""
            kept.append(line[found.end("spaces") : found.end()])
            at = found.end()
        escape = (self._rows.options.escapechar or "").encode()
        self._escaped_break = bool(escape) and not self._inside_quotes and masked.endswith(escape)
        return b"".join(kept)
