"""Uploads to S3 that were neither completed nor aborted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone

from airflow_mlops.data.store.location import Location


@dataclass(frozen=True)
class UnfinishedUpload:
    """A large file whose upload to S3 has begun and was neither completed nor aborted.

    :param key: key of the file
    :param id: id of the upload
    :param started: time at which the upload began, in UTC
    """

    key: str
    id: str
    started: datetime


class Uploads(Location):
    """Lists and aborts unfinished uploads."""

    def unfinished_uploads(self) -> list[UnfinishedUpload]:
        """List the uploads under the store's URL that were neither completed nor aborted. Their parts take up space.

        Only S3 keeps such uploads until they are aborted. For other filesystems, the list is empty.

        :raises StoreError: the store cannot be read
        """
        if self.url.partition("://")[0] not in ("s3", "s3a"):
            return []
        bucket, folder, _ = self.fs.split_path(self.root)
        prefix = f"{folder}/" if folder else ""
        found: list[UnfinishedUpload] = []
        page: dict[str, str] = {}
        while True:
            with self._guard("list", "unfinished uploads"):
                answer = self.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **page)
            for upload in answer.get("Uploads", []):
                key = upload["Key"].removeprefix(prefix)
                found.append(UnfinishedUpload(key, upload["UploadId"], upload["Initiated"].astimezone(timezone.utc)))
            if not answer.get("IsTruncated"):
                return found
            page = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Abort an upload and discard its parts.

        An upload that has been completed or aborted in the meantime is left unchanged.

        :raises StoreError: the upload cannot be aborted
        """
        bucket, key, _ = self.fs.split_path(self.path(upload.key))
        with self._guard("delete", upload.key), suppress(FileNotFoundError):
            self.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.id)
