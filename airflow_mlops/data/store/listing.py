"""Lists files of the artifact store."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store.location import Location

# The stores, and their buckets, that this process has found to exist.
_CHECKED: set[tuple[str, str]] = set()


class Listing(Location):
    """Lists keys, and the metadata of files."""

    def keys(self, prefix: str) -> list[str]:
        """List the keys directly in the folder ``prefix``, sorted. Files that are still being written are left out.

        :raises StoreError: the store cannot be read
        """
        with self._guard("list", prefix):
            try:
                paths = self.fs.ls(self.path(prefix), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                paths = []
            if not paths:
                self._require_bucket()
        # The listing of a file is the file itself.
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths if not self._is(prefix, path))
        return sorted(f"{prefix}/{name}" for name in names if not name.startswith("."))

    def require(self) -> None:
        """Check that the folder or the bucket of the store exists.

        Other methods read a folder that does not exist as an empty one, and create it when they write. A process that
        knows that the store has files therefore calls this method first, because the folder of a file system that is
        not mounted may not exist.

        :raises StoreError: the folder or the bucket does not exist, or the store cannot be read
        """
        if not self.is_object_store:
            try:
                with self._guard("read", ""):
                    self.fs.info(self.root)
            except FileNotFoundError as error:
                raise StoreError(
                    f"The folder of the artifact store {self.url} does not exist. Mount or create it, or correct the setting "
                    "[mlops] artifacts."
                ) from error
        self._require_bucket()

    def _require_bucket(self) -> None:
        """Check that the bucket or container exists. If it does not exist, every folder appears to be empty.

        :raises StoreError: the bucket does not exist, or a local store is a file
        """
        self._require_folder("list", "")
        if not self.is_object_store:
            return
        bucket = self.root.strip("/").partition("/")[0]
        if (self.url, bucket) in _CHECKED:
            return
        try:
            self.fs.info(bucket)
            _CHECKED.add((self.url, bucket))
        except FileNotFoundError as error:
            raise StoreError(
                f"The bucket {bucket!r} of the artifact store {self.url} does not exist: create the bucket, or correct the "
                "setting [mlops] artifacts."
            ) from error
        except Exception:  # noqa: BLE001 - the step may be allowed to list only its own folder
            return

    def find(self, prefix: str) -> list[str]:
        """List the keys in the folder ``prefix`` and its subfolders, sorted.

        Files that are still being written are included.

        :raises StoreError: the store cannot be read
        """
        return sorted(self.find_info(prefix))

    def find_info(self, prefix: str) -> dict[str, dict[str, Any]]:
        """List the keys in the folder ``prefix`` and its subfolders, each with the filesystem's metadata of the file.

        Files that are still being written are included. On filesystems that record times or hashes, the metadata of a
        file changes when the file is replaced.

        :raises StoreError: the store cannot be read
        """
        with self._guard("list", prefix):
            try:
                found = _local(self.path(prefix)) if self._local else self.fs.find(self.path(prefix), detail=True)
            except FileNotFoundError:
                found = {}
            # adlfs returns only the path if the prefix is a file, even if details are requested.
            if not found or isinstance(found, list):
                found = {}
                self._require_bucket()
        return {
            str(path).removeprefix(self.path("")): info for path, info in found.items() if not self._is(prefix, path)
        }

    def _is(self, key: str, path: str) -> bool:
        """Return whether ``path`` is the path of ``key`` in the filesystem."""
        return str(path).strip("/") == self.path(key).strip("/")


def _local(folder: str) -> dict[str, dict[str, Any]]:
    """List the files in a local folder and its subfolders, with the metadata that readers use.

    fsspec's own listing takes several times as long, and leaves out folders that cannot be read. If a file is deleted
    during the listing, fsspec leaves out all files of its folder.
    """
    found: dict[str, dict[str, Any]] = {}
    folders = [folder.rstrip("/")]
    while folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                with suppress(FileNotFoundError):
                    info = entry.stat()
                    found[entry.path] = {
                        "name": entry.path,
                        "size": info.st_size,
                        "type": "file",
                        "created": info.st_ctime,
                        "mtime": info.st_mtime,
                        "ino": info.st_ino,
                    }
    return found
