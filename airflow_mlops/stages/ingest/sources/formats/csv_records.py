"""Find the ends of rows in CSV text, and misplaced quotes that Arrow's parser would misread without an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from airflow_mlops.stages.ingest.csv_options import CsvOptions
from airflow_mlops.stages.ingest.sources.formats.source_file import SourceFile
from airflow_mlops.stages.ingest.sources.formats.text import require_size

# A text with more quotes is not split at its quotes, because each part takes 40 bytes of memory.
_MOST_PARTS = 2_000_000


@dataclass(frozen=True)
class Rows:
    """Splits CSV text into rows, according to the options of the file.

    :param file: the file, for error messages
    :param options: options of the CSV format
    :param sep: character that separates the values of a row
    """

    file: SourceFile
    options: CsvOptions
    sep: bytes

    def end(self, text: bytes, line: int) -> int:
        """Return the length in bytes of the whole rows at the start of ``text``.

        :param text: text that begins at the start of a row, and may end inside a row
        :param line: number of the first line of ``text``, for error messages
        :raises MalformedFileError: a quoted value is followed by text, as in ``"say \\"hi\\""`` without an escape
            character. Arrow's parser would drop quotes and split the value
        """
        quote, masked = self.quote(), self.masked(text)
        if not quote or quote not in masked:
            return max(masked.rfind(b"\n"), masked.rfind(b"\r", 0, -1) if b"\n" not in masked else -1) + 1
        if masked.count(quote) <= _MOST_PARTS:
            parts = masked.split(quote)
            if self._is_regular(parts):
                return _end_of_regular(parts, len(masked))
        return self._scan(masked, line)[0]

    def check_end(self, text: bytes, line: int) -> None:
        """Check that the last row of a file does not end inside a quoted value.

        :param text: the last row
        :param line: number of the first line of ``text``
        :raises MalformedFileError: a quote is not closed
        """
        quote, masked = self.quote(), self.masked(text)
        if quote and quote in masked:
            _, opened = self._scan(masked, line)
            if opened is not None:
                raise self.file.malformed(
                    f"ends inside a quoted value that begins in line {opened}",
                    f"Close the quote, or set csv={{'quotechar': None}} if {self.options.quotechar} is an ordinary "
                    "character.",
                )

    def first_end(self, text: bytes) -> int:
        """Return the length in bytes of the first row of ``text``, including the line break."""
        for offset, part, inside in self._parts(self.masked(text)):
            if not inside and (found := re.search(rb"\r\n|\n|\r", part)):
                return offset + found.end()
        return len(text)

    def lines(self, text: bytes, line: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number of the first line and the text of each row that is not blank.

        :param line: number of the first line of ``text``
        """
        start = 0
        for offset, part, inside in self._parts(self.masked(text)):
            if inside or not (b"\n" in part or b"\r" in part):
                continue
            for found in re.finditer(rb"\r\n|\n|\r", part):
                row, start = text[start : offset + found.end()], offset + found.end()
                if stripped := row.rstrip(b"\r\n"):
                    yield line, stripped
                line += row.count(b"\n")
        if start < len(text):
            yield line, text[start:]

    def without_comments(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the text with blank lines instead of comment lines. The line numbers of other lines do not change."""
        comment = (self.options.comment or "").encode()
        if not comment:
            yield from chunks
            return
        waiting, inside = b"", False
        for chunk in chunks:
            lines = (waiting + chunk).split(b"\n")
            waiting = lines.pop()
            require_size(self.file, waiting)
            for index, text in enumerate(lines):
                if not inside and text.startswith(comment):
                    lines[index] = b""
                elif self.quote() and self.quote() in text:
                    *_, (_, _, inside) = self._parts(self.masked(text), inside)
            yield b"".join(text + b"\n" for text in lines)
        if waiting and (inside or not waiting.startswith(comment)):
            yield waiting

    def without_null_escapes(self, text: bytes) -> bytes:
        """Return text without ``\\N``, if a backslash is the escape character.

        MySQL and PostgreSQL write ``\\N`` for null. Arrow would read it as the text ``N``.
        """
        if self.options.escapechar != "\\" or b"\\N" not in text:
            return text
        ends = re.escape(self.sep)
        null = re.compile(rb"(?<![^\n" + ends + rb"])\\N(?![^\r\n" + ends + rb"])")
        parts = self._parts(self.masked(text))
        kept = [(text[at : at + len(part)], inside) for at, part, inside in parts]
        return self.quote().join(part if inside else null.sub(b"", part) for part, inside in kept)

    def quote(self) -> bytes:
        return (self.options.quotechar or "").encode()

    @property
    def _ends(self) -> tuple[bytes, ...]:
        return self.sep, b"\n", b"\r"

    def masked(self, text: bytes) -> bytes:
        """Return the text with ``xx`` instead of each escaped separator, quote, line break or escape character."""
        escape = (self.options.escapechar or "").encode()
        if escape:
            # Pairs of escape characters are replaced first. Each remaining escape character escapes the next character.
            for character in (escape, self.quote(), *self._ends):
                text = text.replace(escape + character, b"xx") if character else text
        return text

    def _is_regular(self, parts: list[bytes]) -> bool:
        """Return whether every quote surrounds a value or is doubled. If not, the text needs the slower :meth:`_scan`.

        :param parts: the text, split at the quotes
        """
        ends = self._ends
        between = set(parts[2:-1:2])
        last = parts[-1] if len(parts) % 2 and len(parts) > 1 else b""
        return (
            (not parts[0] or parts[0][-1:] in ends)
            and (not last or last[:1] in ends)
            and all((part[:1] in ends and part[-1:] in ends) if part else self.options.doublequote for part in between)
        )

    def _parts(self, masked: bytes, inside: bool = False) -> Iterator[tuple[int, bytes, bool]]:
        """Split text at the quotes. A quote inside a value without quotes is an ordinary character.

        :param inside: whether the text begins inside a quoted value
        :return: offset of each part in the text, the part, and whether the part is inside a quoted value
        """
        quote = self.quote()
        offset, before, ordinary = 0, b"", False
        while True:
            at = masked.find(quote, offset) if quote else -1
            part = masked[offset : at if at >= 0 else len(masked)]
            if offset and inside:
                inside = False
            elif offset:
                inside = (not before and not ordinary) or before[-1:] in self._ends
                ordinary = not inside
            yield offset, part, inside
            if at < 0:
                return
            offset, before = at + 1, part

    def _scan(self, masked: bytes, line: int) -> tuple[int, int | None]:
        """Find the whole rows and the open quote in text. The text is read quote by quote.

        :param line: number of the first line of the text
        :return: the length in bytes of the whole rows; and the line of the quote that is not closed at the end, or
            ``None``
        :raises MalformedFileError: a quoted value is followed by text
        """
        quote, ends = re.escape(self.quote()), b"".join(map(re.escape, self._ends))
        opening = re.compile(b"(?<![^" + ends + b"])" + quote)
        # Matches up to 500 quoted values without quotes and line breaks inside, each followed by another quoted value.
        closed = quote + b"[^\n" + quote + b"]*" + quote
        simple = re.compile(b"(?:%b[%b](?:[^%b]*[%b])?(?=%b)){1,500}" % (closed, ends, quote, ends, quote))
        end = at = counted = 0
        while found := opening.search(masked, at):
            start = found.start()
            end = max(end, masked.rfind(b"\n", at, start) + 1)
            if values := simple.match(masked, start):
                at = values.end()
                end = max(end, masked.rfind(b"\n", start, at) + 1)
                continue
            line, counted = line + masked.count(b"\n", counted, start), start
            closing = self._closing(masked, start + 1)
            if closing is None:
                return end, line
            at = closing + 1
            if masked[at : at + 1] not in (b"", *self._ends):
                line += masked.count(b"\n", counted, closing)
                raise self._misplaced(masked[max(0, closing - 20) : closing], masked[at : at + 20], line)
        return max(end, masked.rfind(b"\n", at) + 1), None

    def _closing(self, masked: bytes, start: int) -> int | None:
        """Return the offset of the quote that closes a value; ``None`` if the value is not closed.

        :param start: offset at which the value begins
        """
        for run in re.compile(re.escape(self.quote()) + b"+").finditer(masked, start):
            if not self.options.doublequote:
                return run.start()
            # In an even number of quotes, all are doubled quotes. In an odd number, the last quote closes the value.
            if (run.end() - run.start()) % 2:
                return run.end() - 1
        return None

    def _misplaced(self, before: bytes, after: bytes, line: int) -> Exception:
        quote = self.options.quotechar
        if before.endswith(b"\\"):
            remedy = "If a backslash is the escape character of the file, set csv={'escapechar': '\\\\'}."
        else:
            remedy = f"Double the quotes inside values, or set csv={{'quotechar': None}} if {quote} is an ordinary character."
        excerpt = (before + (quote or "").encode() + after).decode(errors="replace").strip()
        return self.file.malformed(f"has text after the end of a quoted value in line {line}, near {excerpt!r}", remedy)


def _end_of_regular(parts: list[bytes], length: int) -> int:
    """Return the length in bytes of the whole rows in a text.

    :param parts: the text, split at the quotes. Every second part is inside quotes
    :param length: length of the text in bytes
    """
    offset = length
    for index in reversed(range(len(parts))):
        offset -= len(parts[index])
        if index % 2 == 0 and (found := parts[index].rfind(b"\n")) >= 0:
            return offset + found + 1
        offset -= 1
    return 0
