"""Files in zip archives."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from typing import Any

from fsspec.core import OpenFile

from airflow_mlops.core.errors import MalformedFileError
from airflow_mlops.stages.ingest.sources.hidden import is_hidden
from airflow_mlops.stages.ingest.sources.urls import file_url

_INNER: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class ArchiveMember(OpenFile):  # type: ignore[misc] # fsspec has no types
    """A file in a zip archive. The file is opened when it is read.

    :param archive: the archive
    :param member: name of the file in the archive
    :param is_alone: whether the archive contains no other file. If so, the URL of the archive is used as URL of the
        file
    """

    def __init__(self, archive: OpenFile, member: str, *, is_alone: bool) -> None:
        super().__init__(archive.fs, archive.path, mode="rb", compression="zip")
        self.member = member
        self.is_alone = is_alone

    @property
    def full_name(self) -> str:
        """Return the URL of the file in the archive, such as ``zip://rows.csv::s3://bucket/rows.zip``."""
        url = str(super().full_name)
        return url if self.is_alone else f"zip://{self.member}::{url}"

    def __enter__(self) -> Any:
        self.fobjects = [self.fs.open(self.path, mode="rb")]
        try:
            archive = zipfile.ZipFile(self.fobjects[0])
            self.fobjects += [archive, archive.open(self.member)]
            for suffix, decompress in _INNER.items():
                if self.member.lower().endswith(suffix):
                    self.fobjects.append(decompress(self.fobjects[-1]))
        except BaseException:
            self.close()
            raise
        return self.fobjects[-1]


def members(archive: OpenFile) -> list[ArchiveMember]:
    """Return the files in a zip archive, sorted by name, without hidden files such as ``__MACOSX``.

    :raises MalformedFileError: the archive is damaged or contains no file, or a file in the archive is encrypted or is
        an archive itself
    """
    try:
        with archive.fs.open(archive.path, mode="rb") as raw, zipfile.ZipFile(raw) as opened:
            found = opened.infolist()
            size = raw.seek(0, 2)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise MalformedFileError(
            f"{file_url(archive)} is not a complete zip archive: {str(error).rstrip('.')}. Check the file."
        ) from None
    if any(not info.filename or not 0 <= info.header_offset < size for info in found):
        raise MalformedFileError(f"{file_url(archive)} has a damaged list of members. Check the archive.")
    files = [info for info in found if not info.is_dir() and not is_hidden(info.filename)]
    if not files:
        raise MalformedFileError(f"{file_url(archive)} contains no files. Check the archive.")
    for info in files:
        if info.flag_bits & 1:
            raise MalformedFileError(
                f"{info.filename!r} in {file_url(archive)} is encrypted. Decrypt the archive before the ingestion."
            )
        if info.filename.lower().endswith((".zip", ".tar")):
            raise MalformedFileError(
                f"{info.filename!r} in {file_url(archive)} is an archive itself. Unpack the outer archive before the "
                "ingestion."
            )
    names = sorted({info.filename for info in files})
    if len(names) < len(files):
        raise MalformedFileError(
            f"{file_url(archive)} contains several members with the same name. Write the archive again."
        )
    return [ArchiveMember(archive, name, is_alone=len(names) == 1) for name in names]
