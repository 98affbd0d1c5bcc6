"""The options of the CSV format, with the names of ``pandas.read_csv``."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from airflow_mlops.core.base import Model, choices

_Character = Annotated[str, Field(min_length=1, max_length=1, pattern=r"^[\x00-\x09\x0b\x0c\x0e-\x7f]$")]
# A character between groups of digits: ASCII, or a no-break space, narrow no-break space, thin space or apostrophe.
_Group = Annotated[
    str, Field(min_length=1, max_length=1, pattern=r"^[\x00-\x09\x0b\x0c\x0e-\x7f\u00a0\u2009\u202f\u2019]$")
]
Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
"""A list of texts. A single text is a list with one element, as in pandas."""

# Options of pandas.read_csv that this package does not have, and their replacements.
_ELSEWHERE = {
    "delimiter": "Write `sep`.",
    "usecols": "Use the parameter `columns`.",
    "dtype": "Use the parameter `types`.",
    "parse_dates": "Use the parameter `types`.",
    "compression": "It is derived from the suffix of each file.",
    "nrows": "All rows are read.",
}


class CsvOptions(Model):
    """Options of the CSV format. Names and meanings are the same as in ``pandas.read_csv``, except for missing values.

    An empty cell without quotes is null. An empty cell with quotes is the empty text. In columns with a declared type
    other than text, it is null. No other text is null by default. In columns that are declared as text, a cell with
    quotes is never null.

    Blank lines are skipped. A byte order mark sets the encoding, and takes precedence over ``encoding``. A first line
    ``sep=;``, as Excel writes it, sets the separator.

    :param sep: character that separates the values of a row; by default a comma
    :param quotechar: character around quoted values; ``None`` if quotes are ordinary characters
    :param doublequote: whether two quotes in a quoted value mean one quote
    :param escapechar: escape character, such as a backslash. The character after it is read literally. By default there
        is no escape character
    :param escape_sequences: meaning of a backslash before a letter or a digit, if ``escapechar`` is a backslash.
        ``True``: ``\\b``, ``\\f``, ``\\n``, ``\\r``, ``\\t``, ``\\v`` and ``\\0`` are control characters, as PostgreSQL
        and MySQL write them, and other letters and digits are an error. ``False``: the letter is read literally, as in
        pandas. By default, a backslash before a letter or a digit is an error. A cell ``\\N`` is null in all cases
    :param comment: first character of comment lines, which are skipped; by default there are no comment lines
    :param skipinitialspace: whether spaces after a separator are removed, including those before a quote
    :param skiprows: number of lines to skip at the start of each file
    :param header: ``0`` if the first row contains the column names, ``None`` if the file has no header. By default
        ``None`` if ``names`` is set, otherwise ``0``
    :param names: column names to use instead of the names in the file
    :param encoding: name of a Python codec, such as ``latin-1`` or ``cp1252``; by default UTF-8
    :param decimal: decimal point in numbers
    :param thousands: character between groups of three digits in numbers, such as ``.`` or a no-break space; by default
        there are no groups
    :param na_values: text or texts that mean null, in addition to an empty cell without quotes. The text ``""`` stands
        for an empty cell with quotes
    :param true_values: text or texts that mean true in columns of type bool, instead of ``true`` and ``1``
    :param false_values: text or texts that mean false in columns of type bool, instead of ``false`` and ``0``
    :param on_bad_lines: what happens if a row has more or fewer values than the header. ``error`` fails the task.
        ``skip`` leaves out the row. The number of skipped rows and the first line numbers are logged and recorded in
        the manifest. A row that repeats the header is treated in the same way, but only the number of such rows is
        logged. This rule applies if at least two columns are read and none of them is declared as a number, bool, time
        or binary
    """

    sep: _Character | None = None
    quotechar: _Character | None = '"'
    doublequote: bool = True
    escapechar: _Character | None = None
    escape_sequences: bool | None = None
    comment: _Character | None = None
    skipinitialspace: bool = False
    skiprows: int = Field(default=0, ge=0)
    header: Literal["infer", 0] | None = "infer"
    names: list[str] | None = Field(default=None, min_length=1)
    encoding: str | None = None
    decimal: _Character = "."
    thousands: _Group | None = None
    na_values: Texts = Field(default_factory=list)
    true_values: Texts = Field(default_factory=list)
    false_values: Texts = Field(default_factory=list)
    on_bad_lines: Literal["error", "skip"] = "error"

    @property
    def has_header(self) -> bool:
        """Return whether the first row of a file contains the column names."""
        return self.header == 0 or (self.header == "infer" and self.names is None)

    @model_validator(mode="before")
    @classmethod
    def _known_options(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name not in cls.model_fields:
                remedy = _ELSEWHERE.get(name) or f"{choices(name, cls.model_fields).capitalize()}."
                raise ValueError(f"{name!r} is not an option of `csv`. {remedy}")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        try:
            text = name is None or codecs.lookup(name)._is_text_encoding
        except LookupError:
            text = False
        if not text:
            raise ValueError(f"Python has no text encoding {name!r}. Use for example utf-8, latin-1, cp1252 or utf-16.")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> CsvOptions:
        if self.header is None and self.names is None:
            raise ValueError("`header` is None, but `names` is not set. Set `names` to the names of the columns.")
        if self.names and len(set(self.names)) < len(self.names):
            raise ValueError("`names` contains a name twice. Rename one of them.")
        used = [self.sep or ",", self.quotechar, self.escapechar, self.comment]
        special = [character for character in used if character is not None]
        if len(set(special)) < len(special):
            raise ValueError("`sep`, `quotechar`, `escapechar` and `comment` must be different characters.")
        if self.escape_sequences is not None and self.escapechar != "\\":
            raise ValueError("`escape_sequences` needs a backslash as `escapechar`. Set escapechar='\\\\'.")
        if self.thousands == self.decimal:
            raise ValueError("`thousands` and `decimal` must be different characters.")
        return self
