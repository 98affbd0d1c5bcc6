"""Remove spaces at the start of the values of a CSV file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from airflow_mlops.stages.ingest.sources.formats.csv_records import Rows
from airflow_mlops.stages.ingest.sources.formats.text import require_size


def without_initial_spaces(chunks: Iterator[bytes], rows: Rows) -> Iterator[bytes]:
    """Yield the text without the spaces that follow a separator or a line break, except inside quotes.

    :param chunks: text of the file
    :param rows: the format of the file
    """
    lines = _Lines(rows)
    waiting = b""
    for chunk in chunks:
        *whole, waiting = (waiting + chunk).split(b"\n")
        require_size(rows.file, waiting)
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
        closing = quote + (rb"(?!" + quote + rb")" if rows.options.doublequote else b"")
        # A longer value is matched in several steps, because each repetition takes memory.
        quoted = rb"(?:[^" + quote + rb"]+" + doubled + rb"){0,1000}(?:(?P<end>" + closing + rb")" + rest + rb")?"
        value = rb"(?:" + quote + quoted + rb"|(?P<plain>)" + rest + rb")" if quote else rb"(?P<plain>)" + rest
        self._value = re.compile(rb"(?P<spaces> *)" + value)
        self._rest_of_quoted = re.compile(quoted)
        self._rest = re.compile(rest)
        self._inside_quotes = False
        self._escaped_break = False

    def stripped(self, line: bytes) -> bytes:
        """Return ``line``, which has no line break, without the spaces at the start of its values."""
        masked = self._rows.masked(line)
        kept = io.BytesIO()
        at = 0
        if self._escaped_break and (found := self._rest.match(masked)):
            at = found.end()
            kept.write(line[:at])
        while at < len(masked):
            found = (self._rest_of_quoted if self._inside_quotes else self._value).match(masked, at)
            assert found is not None  # The pattern also matches the empty text, so there is always a match.
            is_plain = not self._inside_quotes and found["plain"] is not None
            kept.write(line[at if self._inside_quotes else found.end("spaces") : found.end()])
            self._inside_quotes = not is_plain and found["end"] is None
            at = found.end()
        escape = (self._rows.options.escapechar or "").encode()
        self._escaped_break = bool(escape) and not self._inside_quotes and masked.endswith(escape)
        return kept.getvalue()
