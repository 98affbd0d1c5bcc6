"""Derive the format of a file from the suffix of its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.ingest.sources.archives import ArchiveMember
from airflow_mlops.stages.ingest.sources.urls import file_url

if TYPE_CHECKING:
    from fsspec.core import OpenFile

_SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_TABS = (".tsv", ".tab")
ARROW_CODECS = {".zst": "zstd", ".lz4": "lz4"}
"""Compressions that Arrow decompresses, by suffix. fsspec reads truncated files of these kinds without an error."""

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")


def known_format(file: OpenFile) -> str | None:
    """Return the format that the suffix of a file name implies, or ``None`` if the suffix is not known.

    A compression suffix, such as ``.gz``, is ignored.
    """
    found = (kind for name in _names(file) for suffix, kind in _SUFFIXES.items() if name.endswith(suffix))
    return next(found, None)


def format_of(file: OpenFile) -> str:
    """Return the format that the suffix of a file name implies.

    :raises SpecError: the suffix is not known, or the file is a spreadsheet
    """
    found = known_format(file)
    if found is not None:
        return found
    if any(name.endswith((".xlsx", ".xlsm", ".xls", ".ods")) for name in _names(file)):
        raise SpecError(
            f"{file_url(file)} is a spreadsheet, which is not read. Save the sheet as CSV, or leave the file out with a glob "
            "pattern, such as *.csv."
        )
    text = any(name.endswith(".txt") for name in _names(file))
    hint = " For a text file with tabs, set format='csv' and csv={'sep': '\\t'}." if text else ""
    raise SpecError(
        f"The name of {file_url(file)} does not end with the suffix of a known format. Set `format` to 'csv', 'json', "
        f"'jsonl' or 'parquet', or leave the file out with a glob pattern, such as *.csv.{hint}"
    )


def has_tabs(file: OpenFile) -> bool:
    """Return whether the suffix of a file name implies that tabs separate the values."""
    return any(name.endswith(_TABS) for name in _names(file))


def _names(file: OpenFile) -> Iterator[str]:
    """Yield the names of a file in lower case, without the suffix of a compression.

    If an archive contains a single file, its own name and the name of the archive are yielded.
    """
    names = [str(file.path)]
    if isinstance(file, ArchiveMember):
        names = [*names, file.member] if file.is_alone else [file.member]
    for name in names:
        name = name.lower()
        for suffix in _COMPRESSED:
            name = name.removesuffix(suffix)
        yield name
