"""Convert text files to UTF-8, and split the text into blocks of whole records (rows or JSON objects)."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.sources.formats.source_file import HashingReader, SourceFile

# UTF-32 comes first, because its byte order mark begins with the byte order mark of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# The first bytes of other formats, whose files often have the suffix of a text format. Text can begin with letters such
# as PAR1. Therefore the patterns also contain the next bytes, which do not occur in text.
_SIGNATURES = {
    rb"\x1f\x8b": "gzip file",
    rb"PK\x03\x04": "zip archive or Excel workbook",
    rb"\xd0\xcf\x11\xe0": "Excel workbook",
    rb"BZh[1-9](1AY&SY|\x17rE8P)": "bzip2 file",
    rb"\xfd7zXZ": "xz file",
    rb"\x28\xb5\x2f\xfd": "zstd file",
    rb"PAR1[\x00-\x08\x0e-\x1f]": "Parquet file",
    rb"ARROW1\x00": "Arrow file",
    rb"Obj\x01": "Avro file",
    rb"%PDF-": "PDF file",
    rb"(?i)<!doctype html|<html": "HTML page, perhaps an error page",
}


@dataclass(frozen=True)
class Block:
    """A block of whole records of a text file.

    :param text: the records in UTF-8
    :param line: number of the first line of the block in the file, from 1. In a JSON document, the number of the first
        record
    """

    text: bytes
    line: int

    def line_at(self, offset: int) -> int:
        """Return the line of the file, from 1, that contains the byte at ``offset`` in the block."""
        return self.line + self.text.count(b"\n", 0, offset)


def decode(file: SourceFile, raw: HashingReader, encoding: str | None = None) -> Iterator[bytes]:
    """Yield the content of a file in UTF-8, without a byte order mark.

    :param raw: the opened file
    :param encoding: encoding of a file without a byte order mark; by default UTF-8. The function does not check that
        UTF-8 text is valid
    :raises MalformedFileError: the content is compressed or of a different format, or the file is not text in the
        encoding
    """
    start = raw.read(source_file.BLOCK_BYTES)
    for signature, what in _SIGNATURES.items():
        if re.match(signature, start):
            raise file.malformed(
                f"must be a text file according to its name or `format`, but the content is a {what}",
                "Give the file name the suffix of the actual format, or set `format`. Save a workbook as CSV.",
            )
    for mark, found in _MARKS.items():
        if start.startswith(mark):
            encoding, start = found, start[len(mark) :]
            break
    if codecs.lookup(encoding or "utf-8").name == "utf-8":
        # UTF-16 text and binary files contain many NUL bytes, and UTF-8 text does not.
        if start[:4096].count(b"\0") > len(start[:4096]) // 20:
            raise file.malformed(
                "contains NUL bytes, so it is not UTF-8 text",
                "Set the encoding of the file, for example csv={'encoding': 'utf-16-le'}, or correct `format`.",
            )
        while start:
            yield start
            start = raw.read(source_file.BLOCK_BYTES)
        return
    decoder, line = codecs.getincrementaldecoder(encoding or "utf-8")(), 1
    final = False
    while not final:
        final = not start
        try:
            # Codecs such as utf-7 can return single surrogates, which UTF-8 does not have.
            text = decoder.decode(start, final).encode()
        except (UnicodeError, ValueError) as error:
            reason = error.reason if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)) else str(error)
            raise file.malformed(
                f"is not text in the encoding {encoding}: {reason}, after line {line}",
                "Correct `encoding` in `csv`, or the file.",
            ) from None
        line += text.count(b"\n")
        yield text
        start = raw.read(source_file.BLOCK_BYTES)


def check_utf8(file: SourceFile, block: Block) -> None:
    """Check that the text of a block is valid UTF-8.

    :raises MalformedFileError: the text is not valid UTF-8
    """
    try:
        block.text.decode()
    except UnicodeDecodeError as error:
        raise file.malformed(
            f"contains text that is not UTF-8 in line {block.line_at(error.start)}", "Convert the file to UTF-8."
        ) from None


def native(text: bytes) -> pa.BufferReader:
    """Return a copy of the text in Arrow's memory, so that Arrow's threads never access Python objects."""
    stream = pa.BufferOutputStream()
    stream.write(text)
    return pa.BufferReader(stream.getvalue())


def require_size(file: SourceFile, row: bytes, line: int | None = None) -> None:
    """Check that a row is not too long.

    :param row: the start of the row
    :param line: number of the first line of the row, if it is known
    :raises MalformedFileError: the row is too long
    """
    if len(row) > source_file.MAX_RECORD_BYTES:
        where = f", which begins in line {line}" if line is not None else ""
        raise file.malformed(
            f"contains a row of more than {source_file.MAX_RECORD_BYTES >> 20} MB{where}",
            "Check for a quote that is not closed, and that `format` is the format of the file.",
        )


def whole_records(
    file: SourceFile,
    chunks: Iterator[bytes],
    end_of_records: Callable[[bytes, int], int],
    line: int = 1,
    check_end: Callable[[bytes, int], None] | None = None,
) -> Iterator[Block]:
    """Yield the text of a file in blocks of whole records.

    :param file: the file, for error messages
    :param chunks: content of the file in UTF-8
    :param end_of_records: function that takes a text and the number of its first line, and returns the length in bytes
        of the whole records at the start of the text
    :param line: line number in the file of the first line of ``chunks``
    :param check_end: function that takes the same arguments for the last record, and raises an error if it is not
        complete
    :raises MalformedFileError: a record is too long
    """
    waiting, least = b"", 0
    for chunk in chunks:
        waiting += chunk
        if len(waiting) < least:
            continue
        end = end_of_records(waiting, line)
        if end:
            yield Block(waiting[:end], line)
            line += waiting.count(b"\n", 0, end)
            waiting = waiting[end:]
        else:
            require_size(file, waiting, line)
        # A long row is searched again from its beginning, so the text is doubled before the next search.
        least = 0 if end else min(2 * len(waiting), source_file.MAX_RECORD_BYTES + 1)
    if waiting:
        if check_end is not None:
            check_end(waiting, line)
        yield Block(waiting, line)
