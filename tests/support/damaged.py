"""Damaged files for the fuzzer :mod:`tests.fuzz`. A seed and a number always give the same file."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import math
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CORPORA = Path(__file__).parents[1] / "data" / "corpora"
# By default, the header of a gzip file has the time, and a case would differ from run to run.
_PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": partial(gzip.compress, mtime=0),
    ".bz2": bz2.compress,
}
_PIECES = [
    b'"', b'""', b"\\", b"\n", b"\r\n", b"\r", b",", b";", b"\t", b"{", b"}", b"[", b"]", b":", b"null", b"true", b"NaN",
    b"-", b"1e999", b"1e" + b"9" * 20, b"0x1F", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\\ud800", b"\\N", b"9" * 40, b"2024-02-30",
    "ü\u2028".encode(), b"sep=;", b"#", b"PAR1",
]  # fmt: skip
# Encodings and separators that the standard library does not detect.
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"sep=", b'"sep=')
_NUMBERS = [0, 1, -1, 127, 255, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, 2**64 - 1]


@dataclass(frozen=True)
class Case:
    """A file to ingest.

    :param name: name of the file
    :param content: content of the file, before it is compressed
    :param damaged: content of the file
    :param options: parameters of the ingestion
    :param is_comparable: whether the standard library reads the same rows, if the file can be read
    """

    name: str
    content: bytes
    damaged: bytes
    options: dict[str, Any] = field(default_factory=dict)
    is_comparable: bool = False


def case(seed: int, number: int) -> Case:
    """A valid file with up to six changes, and random options."""
    rng = random.Random(f"{seed}:{number}")
    form = rng.choice(["csv", "csv", "json", "jsonl", "jsonl", "parquet", "parquet"])
    content = rng.choice(_valid()[form])
    for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3])):
        content = _changed(rng, content)
    suffix = rng.choice(["", "", "", "", "", "", ".gz", ".bz2"])
    damaged = _PACK[suffix](content)
    if suffix and rng.random() < 0.5:
        damaged = _changed(rng, damaged)
    options: dict[str, Any] = {}
    if rng.random() < 0.2:
        options["types"] = {name: rng.choice(_TYPES) for name in rng.sample("abc", rng.randint(1, 3))}
    if form == "csv" and rng.random() < 0.4:
        options["csv"] = dict(rng.sample(_CSV_OPTIONS, rng.randint(1, 3)))
    if form == "json" and rng.random() < 0.6:
        options["record_path"] = rng.choice(["rows", [], ["n", "rows"]])
    if rng.random() < 0.1:
        options["columns"] = rng.sample("abc", rng.randint(1, 3))
    is_comparable = form in ("csv", "jsonl") and not options and not suffix and not content.startswith(_MARKS)
    if is_comparable and form == "csv":
        try:
            header = next(row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if row)
            options["types"] = dict.fromkeys(header, "string")
        except (ValueError, StopIteration, csv.Error):
            is_comparable = False
    return Case(f"file.{form}{suffix}", content, damaged, options, is_comparable)


_TYPES = ["string", "int64", "float64", "bool", "date32", "timestamp[us]", "decimal128(10, 2)", "binary", "list<int64>"]
_CSV_OPTIONS = [
    ("sep", ";"), ("sep", "\t"), ("quotechar", None), ("escapechar", "\\"), ("comment", "#"), ("skipinitialspace", True),
    ("skiprows", 1), ("names", ["a", "b", "c"]), ("encoding", "latin-1"), ("encoding", "utf-16"), ("decimal", ","),
    ("na_values", ["NA", ""]), ("on_bad_lines", "skip"), ("doublequote", False), ("thousands", "'"),
]  # fmt: skip


def _changed(rng: random.Random, content: bytes) -> bytes:
    at = rng.randint(0, len(content))
    end = min(len(content), at + rng.choice([0, 1, 2, 4, 8, 50]))
    kind = rng.randrange(8)
    if kind == 0 and at < len(content):
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + rng.randbytes(rng.randint(1, 4)) + content[end:]
    if kind == 2:
        return content[:at] + content[end:]
    if kind == 3:
        return content[:at] + content[at:end] * rng.choice([2, 3, 100]) + content[end:]
    if kind == 4:
        other = rng.randint(0, len(content))
        return content[:at] + content[other : other + 20] + content[end:]
    if kind == 5:
        number = rng.choice(_NUMBERS)
        size = rng.choice(["<i", "<q", "B"])
        width = struct.calcsize(size)
        packed = (number % (1 << (8 * width))).to_bytes(width, "little")
        return content[:at] + packed + content[at + width :]
    if kind == 6 and rng.random() < 0.2:
        return content[:at]
    return content[:at] + rng.choice(_PIECES) + content[end:]


@cache
def _valid() -> dict[str, list[bytes]]:
    """Valid files of each format."""
    archives = {
        name: zipfile.ZipFile(CORPORA / f"{name}.zip") for name in ("parquet-testing", "csv-spectrum", "JSONTestSuite")
    }
    files = {name: {one: archive.read(one) for one in archive.namelist()} for name, archive in archives.items()}
    values = [text for one, text in files["JSONTestSuite"].items() if "/y_" in one]
    return {
        "csv": [
            b'a,b,c\n1,"x, y",2.5\n2,"say ""hi""",\n\n3,"two\nlines",nan\n' * 3,
            'a;b;c\r\n1,5;ü;2024-03-05\r\n1.000,25;"x;";NA\r\n'.encode(),
            b"a\tb\tc\n1\t\\N\ttrue\n2\tx\\ty\tfalse\n",
            *(text for one, text in files["csv-spectrum"].items() if one.startswith("csvs/")),
        ],
        "json": [
            b'{"n": 2, "rows": [{"a": 1, "b": {"c": [1, 2]}}, {"a": null, "b": {"c": []}}], "x": "\\u00e9"}',
            b'[{"a": 1.5, "b": "x", "c": [1]}, {"a": 2, "b": null, "c": []}, {"c": [3]}]',
            b'{"n": {"rows": [{"a": "2024-03-05T06:30:00Z"}, {"a": "12345678901234567890"}]}}',
            b"[" + b",".join(b'{"a": ' + value + b"}" for value in values if value[:1] not in b"[{") + b"]",
        ],
        "jsonl": [
            b'{"a": 1, "b": "x"}\n{"a": 2.5, "b": "\\ud83d\\ude00"}\n\n{"a": null, "b": "]}"}\n',
            b'{"a": {"x": [1, {"y": null}]}, "b": true, "c": [[1], []]}\n' * 3,
            b'{"a": 9007199254740993, "b": -0.0, "c": 1e308}\n{"a": 1, "b": 12345678901234567890}\n',
        ],
        "parquet": [*_parquet(), *(text for one, text in files["parquet-testing"].items() if one.startswith("data/"))],
    }


def _parquet() -> Iterator[bytes]:
    moment = datetime(2024, 1, 5, 6, 30, tzinfo=timezone.utc)
    table = pa.table(
        {
            "a": [1, None, 3] * 50,
            "b": ["x", "y", None] * 50,
            "c": [[1], [], None] * 50,
            "d": [Decimal("1.10"), None, Decimal(0)] * 50,
            "t": [moment, None, moment] * 50,
            "s": [{"x": 1.5, "y": date(2024, 1, 5)}, None, {"x": math.nan, "y": None}] * 50,
        }
    )
    for options in (
        {"row_group_size": 60},
        {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "gzip", "use_deprecated_int96_timestamps": True},
        {"compression": "zstd", "write_page_checksum": True, "write_page_index": True},
        {"use_dictionary": False, "use_byte_stream_split": ["s.x"], "compression": "brotli", "store_schema": False},
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        yield sink.getvalue()


def disagreement(found: Case, rows: list[dict[str, Any]]) -> str | None:
    """Compare the rows of a file with those that the standard library reads; ``None`` if they agree.

    Files that were read with options other than text columns are not compared, nor are Parquet files.
    """
    if not found.is_comparable:
        return None
    try:
        text = found.content.decode("utf-8-sig")
        if found.name == "file.csv":
            own = [[value or "" for value in row.values()] for row in rows]
            expected = [row for row in csv.reader(io.StringIO(text, newline="")) if row][1:]
            return None if own == expected else f"{own!r:.300} instead of {expected!r:.300}"
        records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, csv.Error) as error:
        return f"{rows!r:.300} instead of {error!r:.100}"
    if len(rows) == len(records) and all(map(_agree, records, rows)):
        return None
    return f"{rows!r:.300} instead of {records!r:.300}"


def _agree(expected: Any, found: Any) -> bool:
    """Whether a JSON value was read exactly. An absent field is null, and so is an object without values."""
    if isinstance(expected, dict):
        if found is None:
            return all(_agree(value, None) for value in expected.values())
        if not isinstance(found, dict) or not expected.keys() <= found.keys():
            return False
        return all(_agree(expected.get(name), value) for name, value in found.items())
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_agree, expected, found))
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(found, float) and math.isnan(found)
    if expected is None and isinstance(found, dict):
        return all(_agree(None, value) for value in found.values())
    return isinstance(expected, bool) == isinstance(found, bool) and bool(expected == found)
