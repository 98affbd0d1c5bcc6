"""Decode escape sequences such as ``\\t`` and ``\\n``, which PostgreSQL's COPY and MySQL write in text files.

Arrow drops the escape character and keeps the next character. It would read ``x\\ty`` as ``xty``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_mlops.stages.ingest.csv_options import CsvOptions
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile

_CONTROL = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"0": b"\0"}
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_LETTER = re.compile(rb"\\[A-Za-z0-9]")


@dataclass(frozen=True)
class Escapes:
    """The escape sequences of a CSV file whose escape character is a backslash.

    :param file: the file, for error messages
    :param options: options of the CSV format
    """

    file: SourceFile
    options: CsvOptions

    def decoded(self, text: bytes, line: int) -> bytes:
        """Return text in which an escaped control character replaces each escape sequence.

        :param text: whole rows, without ``\\N`` as a cell
        :param line: number of the first line of ``text``, for error messages
        :raises MalformedFileError: the option ``escape_sequences`` is not set, and a backslash precedes a letter or a
            digit; or the option is ``True``, and the sequence is not known
        """
        if self.options.escapechar != "\\" or self.options.escape_sequences is False or not _LETTER.search(text):
            return text

        def decode(found: re.Match[bytes]) -> bytes:
            character = found[1]
            if not _LETTER.match(found[0]):
                return found[0]
            if self.options.escape_sequences and character in _CONTROL:
                # The backslash stays, so that a tab or line break does not end the value.
                return b"\\" + _CONTROL[character]
            raise self._unknown(found[0].decode(), line + text.count(b"\n", 0, found.start()))

        return _ESCAPED.sub(decode, text)

    def _unknown(self, sequence: str, line: int) -> Exception:
        if self.options.escape_sequences:
            known = ", ".join(f"\\{letter.decode()}" for letter in _CONTROL)
            return self.file.malformed(
                f"contains the escape sequence {sequence} in line {line}, which is none of {known}",
                "Correct the file, or remove `escapechar` from `csv` if a backslash is an ordinary character.",
            )
        return self.file.malformed(
            f"contains {sequence} in line {line}, which programs read in different ways",
            "Set csv={'escape_sequences': True} if \\t means a tab and \\n a line break, as PostgreSQL and MySQL write "
            "them, or False if the backslash is dropped, as pandas reads them. Remove `escapechar` if a backslash is an "
            "ordinary character.",
        )
