"""List the files for a URL of a single file, a glob pattern, a folder or a zip archive.

Files with names that begin with ``_`` or ``.`` are skipped in folders and in the matches of glob patterns.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.core import OpenFile
from fsspec.utils import infer_compression

from airflow_mlops.core.errors import FilesNotReadyError, MalformedFileError, SchemaError, SourceError, SpecError
from airflow_mlops.stages.ingest.sources.archives import ArchiveMember, members
from airflow_mlops.stages.ingest.sources.hidden import is_hidden
from airflow_mlops.stages.ingest.sources.suffixes import ARROW_CODECS
from airflow_mlops.stages.ingest.sources.urls import without_credentials

_GLOB = re.compile(r"[*?[]")
# Name that Hive gives to the folder of the rows in which the column is null.
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# Folders of table formats, whose data files also contain deleted and replaced rows.
_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}


@dataclass(frozen=True)
class FoundFile:
    """A file to read.

    :param file: the file, which fsspec opens when it is read
    :param partition: value of each partition column by column name, from folder names such as ``year=2024``
    """

    file: OpenFile
    partition: Mapping[str, str | None]


def find_files(url: str) -> list[FoundFile]:
    """Return the files that match a URL, sorted by name.

    :param url: fsspec URL of a file, a glob pattern, a folder or a zip archive
    :raises FilesNotReadyError: no file matches, or a program is still writing to the folder
    :raises SourceError: the files cannot be listed
    :raises SpecError: fsspec cannot open the URL, or the folder is a Delta, Hudi or Iceberg table
    :raises MalformedFileError: a zip archive cannot be read
    """
    public = without_credentials(url)
    with _listing_errors(public):
        fs, path = fsspec.url_to_fs(url)
        paths = _paths(fs, path, public)
        if not paths:
            raise FilesNotReadyError(f"No file matches {public}. Check that the file has arrived, or correct `files`.")
        found: list[OpenFile] = []
        for name in paths:
            # With the package zstandard, fsspec reads a truncated file without an error. Arrow reports it.
            compression = None if name.endswith(tuple(ARROW_CODECS)) else infer_compression(name)
            file = OpenFile(fs, name, mode="rb", compression=compression)
            found.extend(members(file) if compression == "zip" else [file])
    return [FoundFile(file, _partition(file)) for file in found]


def _paths(fs: Any, path: str, public: str) -> list[str]:
    if "http" in fs.protocol or "https" in fs.protocol:
        # The query of a URL contains question marks, and a website has no folders.
        return sorted(fs.glob(path)) if "*" in path else [path]
    if not _GLOB.search(path) or fs.exists(path):
        return _in_folder(fs, path, public) if fs.isdir(path) else [path]
    pattern = _with_literal_folders(fs, path)
    fixed, _, variable = _split(pattern)
    wants_hidden = any(part[:1] in ("_", ".") for part in variable.split("/"))
    found: list[str] = []
    for name, info in fs.glob(pattern, detail=True).items():
        if not wants_hidden and is_hidden(name[len(fixed) :]):
            continue
        found.extend(_in_folder(fs, name, public) if info["type"] == "directory" else [name])
    # A pattern such as ** matches a folder and the files in it.
    return sorted(set(found))


def _in_folder(fs: Any, folder: str, public: str) -> list[str]:
    """Return the data files in a folder and its subfolders.

    :param public: URL of the folder without credentials, for error messages
    :raises SpecError: the folder is a Delta, Hudi or Iceberg table
    :raises FilesNotReadyError: a program is still writing to the folder
    """
    found = sorted(fs.find(folder))
    inside = [name[len(folder.rstrip("/")) + 1 :] for name in found]
    for name in inside:
        table = next((_TABLES[part] for part in name.split("/") if part in _TABLES), None)
        table = table or ("Iceberg" if name.endswith(".metadata.json") else None)
        if table:
            raise SpecError(
                f"{public} is a {table} table. Its files also contain rows that were deleted or replaced. Read the table by "
                "a query with `conn_id` and `sql`, or export it to Parquet files."
            )
        if "_temporary" in name.split("/"):
            raise FilesNotReadyError(
                f"{public} contains a folder _temporary, so a Spark or Hadoop job is still writing files, or has "
                "failed. Wait for the end of the job, or remove the folder _temporary."
            )
    return [name for name, relative in zip(found, inside, strict=True) if not is_hidden(relative)]


def _with_literal_folders(fs: Any, path: str) -> str:
    """Escape brackets and question marks in a glob pattern, where they belong to the names of existing folders."""
    literal, pattern = "", ""
    parts = path.split("/")
    for index, part in enumerate(parts):
        literal, escaped = f"{literal}{part}", part
        if _GLOB.search(part):
            if "*" in part or not fs.exists(literal):
                return pattern + "/".join(parts[index:])
            escaped = re.sub(r"([*?[])", r"[\1]", part)
        literal, pattern = f"{literal}/", f"{pattern}{escaped}/"
    return pattern.rstrip("/")


def _split(pattern: str) -> tuple[str, str, str]:
    """Split a glob pattern into the folder without wildcards, the slash, and the rest with wildcards."""
    parts = pattern.split("/")
    fixed = next(index for index, part in enumerate(parts) if _GLOB.search(re.sub(r"\[[*?[]\]", "", part)))
    before = "/".join(parts[:fixed])
    return re.sub(r"\[([*?[])\]", r"\1", before), "/", "/".join(parts[fixed:])


def _partition(file: OpenFile) -> dict[str, str | None]:
    """Return the values in folder names such as ``year=2024/month=03`` as text, by column name."""
    path = str(file.path).partition("?")[0]
    if isinstance(file, ArchiveMember):
        path = f"{path}/{file.member}"
    values: dict[str, str | None] = {}
    for part in path.split("/")[:-1]:
        name, equals, value = part.partition("=")
        if equals and name:
            name = unquote(name)
            if name in values:
                raise SchemaError(
                    f"The folders of {without_credentials(path)} name the column {name!r} twice. Rename one of them."
                )
            values[name] = None if value == _NULL_PARTITION else unquote(value)
    return values


@contextmanager
def _listing_errors(public: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise SpecError(
            f"{public} cannot be opened where the step runs: {error}. Install the missing package there."
        ) from None
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise MalformedFileError(f"The archive {public} cannot be read: {error}. Check the archive.") from None
    except ValueError as error:
        raise SpecError(f"{public} is not a URL that fsspec can open: {error}. Correct `files`.") from None
    except FileNotFoundError:
        raise FilesNotReadyError(
            f"{public} does not exist. Check that the file has arrived, or correct `files`."
        ) from None
    except OSError as error:
        raise SourceError(
            f"{public} could not be opened: {without_credentials(str(error)).rstrip('.')}. Check that it exists and can be "
            "read."
        ) from None
