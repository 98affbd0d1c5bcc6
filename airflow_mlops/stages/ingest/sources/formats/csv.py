"""Read CSV files.

This module splits a file into blocks of whole rows, and Arrow parses one block at a time. Arrow's streaming reader is
not used, because it reads the Python file in a separate thread. If the interpreter exits during such a read, the
process aborts.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.stages.ingest.sources.formats.csv_columns import Columns, MisfitError
from airflow_mlops.stages.ingest.sources.formats.csv_escapes import Escapes
from airflow_mlops.stages.ingest.sources.formats.csv_records import Rows
from airflow_mlops.stages.ingest.sources.formats.csv_spaces import without_initial_spaces
from airflow_mlops.stages.ingest.sources.formats.source_file import HashingReader, SourceFile
from airflow_mlops.stages.ingest.sources.formats.text import Block, decode, native, whole_records
from airflow_mlops.stages.ingest.sources.suffixes import has_tabs

# Parsing a block takes about a millisecond per column. Blocks of files with many columns are therefore larger, up to
# 16 MB.
_COLUMNS_PER_CHUNK, _MOST_CHUNKS = 2000, 4
# Maximum number of lines that messages and the manifest name.
_MOST_LINES = 10
# A row of a single value may equal the header by chance.
_FEWEST_NAMES = 2
_CELL = re.compile(
    r"In CSV column #(\d+): Row #(\d+): (?:CSV conversion error to .+?: )?(?:invalid value '(.*)'|(.*))", re.DOTALL
)
_ROW = re.compile(r"CSV parse error: Row #(\d+): Expected \d+ columns, got (\d+)")
_JSON = re.compile(rb'\s*(\[\s*)?\{\s*["}]')
_SEPARATOR_LINE = re.compile(rb'"?sep=([\x00-\x7f])"?(\r?\n|\Z)', re.IGNORECASE)


def read(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a CSV file.

    :raises MalformedFileError: a quote is misplaced, a row has too many or too few values, or the file is not text in
        the expected encoding
    :raises SchemaError: a value does not have the type of its column
    """
    with file.hashed() as raw:
        yield from _Reader(file).batches(raw)


class _Reader:
    """Reader of one CSV file, which parses the file block by block.

    :param file: the file
    """

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        csv = file.spec.csv
        separator = csv.sep or (file.spec.delimiter if file.spec.delimiter != "," else None)
        self._default_sep = "\t" if has_tabs(file.file) else ","
        self._options = csv.model_copy(
            update={"sep": separator, "na_values": list(dict.fromkeys([*file.spec.null_values, *csv.na_values]))}
        )
        self._bad_rows = 0
        self._bad_lines: list[tuple[int, int]] = []
        # Number of rows that repeat the header.
        self._headers = 0
        # Numbers of the skipped rows in the current block.
        self._skipped: list[int] = []
        self._chunks_per_block = 1

    @property
    def _sep(self) -> str:
        return self._options.sep or self._default_sep

    def batches(self, raw: HashingReader) -> Iterator[pa.RecordBatch]:
        """Stream the rows of the file in batches.

        :param raw: the opened file
        """
        blocks = self._blocks(raw)
        names = self._options.names or []
        columns: Columns | None = None
        at_header = self._options.has_header
        for block in blocks:
            if at_header:
                at_header = False
                header, block = self._split_header(block)
                names = names or self._header(header)
                self._file.wanted_columns(names)
                if not block.text:
                    continue
            if columns is None:
                columns = Columns(self._file, self._options, names)
                self._chunks_per_block = max(1, min(_MOST_CHUNKS, len(names) // _COLUMNS_PER_CHUNK))
            table = self._typed(block, columns)
            if self._bad_rows and self._options.on_bad_lines == "error":
                self._refuse_bad_rows(blocks, names)
            row = 0
            for batch in table.to_batches():
                kept = self._without_headers(block, columns, batch, row)
                yield self._converted(block, columns, kept, row)
                row += kept.num_rows
        if self._bad_rows:
            self._record_bad_rows()
        if self._headers:
            rows = "row that repeats" if self._headers == 1 else "rows that repeat"
            self._file.notes.append(f"Skipped {self._headers:,} {rows} the header of {self._file.url}.")
        if columns is not None:
            self._file.notes.extend(text for text in columns.notes() if text not in self._file.notes)

    def _blocks(self, raw: HashingReader) -> Iterator[Block]:
        """Yield blocks of whole rows, without skipped lines and comment lines.

        :raises MalformedFileError: a quote is misplaced, or the file contains JSON instead of a header
        """
        chunks = _without_lines(decode(self._file, raw, self._options.encoding), self._options.skiprows)
        first, line = next(chunks, b""), 1 + self._options.skiprows
        if self._options.has_header and _JSON.match(first):
            raise self._file.malformed(
                "contains JSON, not CSV",
                "Give its name the suffix .json, or .jsonl if each line is an object, or set `format` to 'json' or 'jsonl'.",
            )
        if self._options.skiprows == 0 and (found := _SEPARATOR_LINE.match(first)):
            self._use_separator(found[1].decode())
            first, line = first[found.end() :], line + 1
        self._rows = rows = Rows(self._file, self._options, self._sep.encode())
        self._escapes = Escapes(self._file, self._options)
        chunks = rows.without_comments(_chain(first, chunks))
        if self._options.skipinitialspace:
            chunks = without_initial_spaces(chunks, rows)
        for block in whole_records(self._file, self._joined(chunks), rows.end, line, rows.check_end):
            # Arrow would read a blank line at the start as the header.
            text = block.text.lstrip(b"\r\n") if block.text[:1] in b"\r\n" else block.text
            if text:
                yield Block(text, block.line_at(len(block.text) - len(text)))

    def _joined(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        # A chunk may be empty.
        while parts := list(islice(chunks, self._chunks_per_block)):
            yield b"".join(parts)

    def _use_separator(self, found: str) -> None:
        if self._options.sep not in (None, found):
            raise SpecError(
                f"The first line of {self._file.url} is sep={found}, but `sep` is {self._options.sep!r}. Correct `sep` in "
                "`csv`, or skip the line with skiprows=1."
            )
        self._options = self._options.model_copy(update={"sep": found})

    def _split_header(self, block: Block) -> tuple[Block, Block]:
        end = self._rows.first_end(block.text)
        text = block.text[end:]
        body = text.lstrip(b"\r\n")
        return Block(block.text[:end], block.line), Block(body, block.line_at(end + len(text) - len(body)))

    def _header(self, header: Block) -> list[str]:
        """Return the column names in the header of the file.

        :raises SchemaError: a column has no name, or the file seems to use a different separator
        :raises MalformedFileError: the header is not UTF-8
        """
        from pyarrow import csv

        text = self._escapes.decoded(header.text.rstrip(b"\r\n"), header.line)
        try:
            options = {"read_options": csv.ReadOptions(use_threads=False), "parse_options": self._parse_options()}
            names: list[str] = csv.read_csv(native(text + b"\n"), **options).column_names
        except UnicodeDecodeError:
            raise self._file.malformed(
                "has a header that is not UTF-8",
                "Set the encoding of the file, for example csv={'encoding': 'cp1252'}.",
            ) from None
        others = [sep for sep in ",;\t|" if sep in names[0]]
        if len(names) == 1 and others and self._options.sep is None:
            raise SchemaError(
                f"The header of {self._file.url} has one column, {names[0][:80]!r}, because the separator is "
                f"{self._sep!r}. Set csv={{'sep': {others[0]!r}}}, or csv={{'sep': {self._sep!r}}} if the file has only this column."
            )
        unnamed = [str(number) for number, name in enumerate(names, 1) if not name]
        if unnamed and self._file.spec.columns is None:
            which, have = ("Column", "has") if len(unnamed) == 1 else ("Columns", "have")
            # R and pandas write row numbers as a column without a name.
            complete = [name or f"column_{number}" for number, name in enumerate(names, 1)]
            raise SchemaError(
                f"{which} {', '.join(unnamed)} of {self._file.url} {have} no name in line {header.line}. Name all columns, for "
                f"example with csv={{'header': 0, 'names': {complete!r}}}, or select the other columns with `columns`."
            )
        return names

    def _typed(self, block: Block, columns: Columns) -> pa.Table:
        """Return the rows of a block as a table with the types of ``columns``.

        :raises SchemaError: a value does not have the type of its column
        :raises SpecError: a declared type cannot be read from CSV
        """
        # Arrow's parser would read 0x10 as the integer 16.
        if b"0x" in block.text or b"0X" in block.text:
            columns.read_integers_as_text()
        try:
            counted = self._bad_rows, len(self._bad_lines)
            table = self._parse(block, columns.names, columns.kinds, columns.wanted, columns.quoted_nulls)
            if infinite := columns.with_infinity(table):
                for name in infinite:
                    columns.read_as_text(name)
                self._bad_rows, self._bad_lines = counted[0], self._bad_lines[: counted[1]]
                table = self._parse(block, columns.names, columns.kinds, columns.wanted, columns.quoted_nulls)
            return table
        except pa.ArrowNotImplementedError as error:
            names = [name for name, kind in columns.kinds.items() if f" {kind} is not" in str(error)]
            if not names:
                raise
            raise SpecError(
                f"Column {names[0]!r} is declared {columns.kinds[names[0]]}, which a CSV file cannot contain. Declare it as "
                f"text, number, bool, date or timestamp, for example with types={{{names[0]!r}: 'string'}}."
            ) from None
        except pa.ArrowInvalid as error:
            # Arrow cannot pass a row that is not UTF-8 to a handler. Without a handler, it fails at the first bad row.
            if found := _ROW.search(str(error)):
                line = self._line_of(block, int(found[1]))
                raise self._file.malformed(
                    f"contains text that is not UTF-8, and line {line} has {found[2]} values instead of {len(columns.names)}",
                    "Set the encoding of the file, for example csv={'encoding': 'cp1252'}, or correct the rows.",
                ) from None
            found = _CELL.search(str(error))
            if found is None:
                raise
            name, line = columns.names[int(found[1])], self._line_of(block, int(found[2]))
            if found[3] and columns.is_number_for_us(name, found[3]):
                columns.read_as_text(name)
                return self._typed(block, columns)
            if "UTF8" in (found[4] or ""):
                raise SchemaError(
                    f"Column {name!r} of {self._file.url} contains text that is not UTF-8 in line {line}. Set the encoding "
                    f"of the file, for example csv={{'encoding': 'cp1252'}}, or ingest the bytes unchanged with "
                    f"types={{{name!r}: 'binary'}}."
                ) from None
            raise columns.mismatch(name, line, found[3], found[4]) from None

    def _without_headers(self, block: Block, columns: Columns, batch: pa.RecordBatch, row: int) -> pa.RecordBatch:
        """Return a batch without rows that repeat the header. Concatenated files have such rows.

        :param row: number of rows that precede ``batch`` in the block, without skipped rows
        :raises MalformedFileError: a row repeats the header, and bad lines are not skipped
        """
        names = columns.wanted
        is_text = all(pa.types.is_string(column.type) for column in batch.columns)
        if self._options.names or not self._options.has_header or len(names) < _FEWEST_NAMES or not is_text:
            return batch
        headers = pc.equal(batch.column(0), names[0])
        if not pc.any(headers).as_py():
            return batch
        for name, column in zip(names, batch.columns, strict=True):
            headers = pc.and_(headers, pc.fill_null(pc.equal(column, name), False))
        headers = pc.fill_null(headers, False)
        if not (count := pc.sum(headers).as_py()):
            return batch
        if self._options.on_bad_lines == "error":
            line = self._line_of(block, self._number_in_block(row + pc.index(headers, True).as_py()))
            raise self._file.malformed(
                f"repeats its header in line {line}",
                "Remove the repeated header, or leave such rows out with csv={'on_bad_lines': 'skip'}.",
            )
        self._headers += count
        numbers = [self._number_in_block(row + index) for index in pc.indices_nonzero(headers).to_pylist()]
        self._skipped = sorted([*self._skipped, *numbers])
        return batch.filter(pc.invert(headers))

    def _number_in_block(self, index: int) -> int:
        """Return the number of a row in its block, counted from 1 and including skipped rows.

        :param index: number of rows before the row that were not skipped
        """
        number = index + 1
        for skipped in self._skipped:
            number += skipped <= number
        return number

    def _converted(self, block: Block, columns: Columns, batch: pa.RecordBatch, row: int) -> pa.RecordBatch:
        """Return a batch of a block with the declared types.

        :param row: number of rows that precede ``batch`` in the block, without skipped rows
        :raises SchemaError: a value does not have the type of its column
        """
        try:
            return columns.converted(batch)
        except MisfitError as misfit:
            number = self._number_in_block(row + misfit.row)
            raise columns.mismatch(misfit.name, self._line_of(block, number), misfit.value, "") from None

    def _parse(
        self,
        block: Block,
        names: Sequence[str],
        kinds: Mapping[str, pa.DataType],
        wanted: Sequence[str],
        quoted: Mapping[str, bool] | None = None,
    ) -> pa.Table:
        """Return the rows of a block as a table. Rows with too many or too few values are skipped and counted.

        :param names: names of all columns of the file
        :param kinds: Arrow type by column
        :param wanted: names of the columns to read
        :param quoted: columns in which a quoted text can mean null. The value is ``True`` if the empty text means null
            in addition to the texts in ``na_values``
        """
        from pyarrow import csv

        bad: list[tuple[int, int]] = []

        def skip(row: Any) -> str:
            bad.append((row.number, row.actual_columns))
            return "skip"

        options = self._options
        text = self._escapes.decoded(self._rows.without_null_escapes(block.text), block.line)
        if text.startswith(codecs.BOM_UTF8):
            # This byte order mark is part of the first value, but Arrow would remove it at the start of the text. Arrow
            # skips the blank line.
            text = b"\n" + text
        booleans = {"true_values": options.true_values, "false_values": options.false_values}

        def parse(columns: Sequence[str], handler: Any, *, quoted_null: bool) -> pa.Table:
            return csv.read_csv(
                native(text),
                csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
                self._parse_options(handler),
                csv.ConvertOptions(
                    column_types=kinds,
                    include_columns=columns,
                    decimal_point=options.decimal,
                    null_values=["", *options.na_values],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=quoted_null,
                    **{name: values for name, values in booleans.items() if values},
                ),
            )

        handler = skip if _is_utf8(text) else None
        if not quoted or not self._has_quoted_null(text):
            table = parse(wanted, handler, quoted_null=False)
        else:
            kept = [name for name in wanted if not quoted.get(name)]
            tables = [parse(kept, handler, quoted_null=False)] if kept else []
            if len(kept) < len(wanted):
                others = [name for name in wanted if quoted.get(name)]
                again = None if handler is None else (lambda _: "skip") if kept else handler
                tables.append(parse(others, again, quoted_null=True))
            arrays = {
                name: column for one in tables for name, column in zip(one.column_names, one.columns, strict=True)
            }
            untyped_names = {name for name in kept if name in quoted}
            table = pa.table(
                {name: self._without_tokens(arrays[name]) if name in untyped_names else arrays[name] for name in wanted}
            )
        self._skipped = sorted(number for number, _ in bad)
        self._bad_rows += len(bad)
        for number, found in bad[: _MOST_LINES - len(self._bad_lines)]:
            self._bad_lines.append((self._line_of(block, number), found))
        return table

    def _has_quoted_null(self, text: bytes) -> bool:
        quote = (self._options.quotechar or "").encode()
        return bool(quote) and any(quote + token.encode() + quote in text for token in ("", *self._options.na_values))

    def _without_tokens(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return ``texts`` with null instead of each text that is in ``na_values``."""
        tokens = pa.array(self._options.na_values, texts.type)
        return pc.if_else(pc.is_in(texts, value_set=tokens), pa.scalar(None, texts.type), texts)

    def _parse_options(self, handler: Any = None) -> Any:
        from pyarrow import csv

        options = self._options
        return csv.ParseOptions(
            delimiter=self._sep,
            quote_char=options.quotechar or False,
            double_quote=options.doublequote,
            escape_char=options.escapechar or False,
            newlines_in_values=True,
            invalid_row_handler=handler,
        )

    def _line_of(self, block: Block, number: int) -> int:
        """Return the number of the file's line on which a row begins.

        :param block: the block that contains the row
        :param number: number of the row in the block, from 1
        """
        found = next(islice(self._rows.lines(block.text, block.line), number - 1, None), None)
        return found[0] if found else block.line

    def _refuse_bad_rows(self, rest: Iterator[Block], names: Sequence[str]) -> None:
        """Raise an error with the number of rows that have too many or too few values in the whole file.

        :param rest: the remaining blocks of the file
        :param names: names of the columns
        :raises MalformedFileError: always
        """
        for block in rest:
            with suppress(pa.ArrowInvalid):
                self._parse(block, names, dict.fromkeys(names, pa.binary()), names[:1])
        header = "`names`" if self._options.names else "the header"
        rows = "row has" if self._bad_rows == 1 else "rows have"
        raise self._file.malformed(
            f"has irregular rows: {self._bad_rows:,} {rows} more or fewer values than the {len(names)} columns "
            f"of {header} "
            f"({', '.join(f'line {line}: {found}' for line, found in self._bad_lines)}"
            f"{', …' if self._bad_rows > len(self._bad_lines) else ''})",
            "Correct the rows or the options in `csv` (sep, quotechar, skipinitialspace, skiprows), or leave these rows out with "
            "csv={'on_bad_lines': 'skip'}.",
        )

    def _record_bad_rows(self) -> None:
        lines = [line for line, _ in self._bad_lines]
        self._file.facts["bad_lines"] = {"rows": self._bad_rows, "lines": lines}
        more = ", …" if self._bad_rows > len(lines) else ""
        self._file.notes.append(
            f"Skipped {counted(self._bad_rows, 'row')} of {self._file.url} with more or fewer values than the header "
            f"(lines {', '.join(map(str, lines))}{more})."
        )


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_lines(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield the bytes of a file without the first ``count`` lines."""
    for chunk in chunks:
        while count and (end := chunk.find(b"\n") + 1):
            chunk, count = chunk[end:], count - 1
        if not count and chunk:
            yield chunk


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest
