"""The members of zip archives as files."""

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
    """A member of a zip archive, opened lazily.

    :param archive: the archive
    :param member: name of the member
    :param is_alone: whether the archive has no other member. Then the URL of the member is that of the archive
    """

    def __init__(self, archive: OpenFile, member: str, *, is_alone: bool) -> None:
        super().__init__(archive.fs, archive.path, mode="rb", compression="zip")
        self.member = member
        self.is_alone = is_alone

    @property
    def full_name(self) -> str:
        """Return the URL of the member."""
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
    """Return the files in a zip archive in the order of their names, without those that programs add unasked.

    :raises MalformedFileError: the archive is damaged, contains no file, or its files are encrypted or archives
    """
    try:
        with archive.fs.open(archive.path, mode="rb") as raw, zipfile.ZipFile(raw) as opened:
            found = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise MalformedFileError(
            f"{file_url(archive)} is not a complete zip archive: {str(error).rstrip('.')}. Check the file."
        ) from None
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
