"""Describe the sources of feature views as JSON, so that a machine without Feast joins the same files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FileSystem, LocalFileSystem, S3FileSystem
from pydantic import BaseModel

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data import sent_schemas
from airflow_mlops.data.feast.parquet_source import PARQUET, ParquetSource
from airflow_mlops.data.feast.request import ViewRequest


class _File(BaseModel):
    """A file, and its size and time of change, by which a changed file is recognised."""

    path: str
    size: int
    changed: int


class _Sent(BaseModel):
    """A :class:`ParquetSource`.

    :param view: name of the feature view
    :param path: path of the source, for error messages
    :param ttl: time to live in microseconds
    :param features: names and types of the features, as a schema of Arrow
    :param is_s3: whether the files are in S3
    :param endpoint: URL of the S3 service; empty for the default
    """

    view: str
    path: str
    ttl: int | None
    alias: str
    join_keys: dict[str, str]
    features: str
    names: dict[str, str]
    time: str
    created: str | None
    times_in_keys: list[str]
    is_s3: bool
    endpoint: str
    files: list[_File]


def can_be_sent(source: ParquetSource) -> bool:
    """Return whether another machine can open the files: they are local or in S3, without credentials of their own."""
    if not isinstance(source.dataset, ds.FileSystemDataset):
        return False
    places = (LocalFileSystem, S3FileSystem)
    return isinstance(source.dataset.filesystem, places) and not source.request.view.batch_source.resolve_credentials()


def describe(source: ParquetSource) -> str:
    """Return a JSON text from which :func:`restore` opens the same files.

    :raises FeatureStoreError: the files cannot be read
    """
    view, request = source.request.view, source.request
    filesystem = source.dataset.filesystem
    return _Sent(
        view=view.name,
        path=str(view.batch_source.path),
        ttl=view.ttl // timedelta(microseconds=1) if view.ttl else None,
        alias=request.alias,
        join_keys=request.join_keys,
        features=sent_schemas.to_text(pa.schema(list(request.features.items()))),
        names=source.names,
        time=source.time,
        created=source.created,
        times_in_keys=sorted(source.times_in_keys),
        is_s3=isinstance(filesystem, S3FileSystem),
        endpoint=view.batch_source.file_options.s3_endpoint_override or "",
        files=_files(filesystem, source.dataset.files, view.name),
    ).model_dump_json()


def restore(text: str) -> ParquetSource:
    """Open a source that :func:`describe` described.

    :raises FeatureStoreError: a file does not exist here, or was changed since
    """
    sent = _Sent.model_validate_json(text)
    filesystem: FileSystem = LocalFileSystem()
    if sent.is_s3:
        filesystem = S3FileSystem(**({"endpoint_override": sent.endpoint} if sent.endpoint else {}))
    paths = [file.path for file in sent.files]
    for then, now in zip(sent.files, _files(filesystem, paths, sent.view), strict=True):
        if then != now:
            error = FeatureStoreError(
                f"The file {then.path} of feature view {sent.view!r} was changed while features were joined. A retry joins "
                "the new file. Write new files beside the old ones instead."
            )
            error.retryable = True
            raise error
    view = SimpleNamespace(
        name=sent.view,
        ttl=timedelta(microseconds=sent.ttl) if sent.ttl is not None else None,
        batch_source=SimpleNamespace(path=sent.path),
    )
    features = {field.name: field.type for field in sent_schemas.from_text(sent.features)}
    request = ViewRequest(view, sent.alias, sent.join_keys, features)
    dataset = ds.dataset(paths, filesystem=filesystem, format=PARQUET)
    return ParquetSource(request, dataset, sent.names, sent.time, sent.created, frozenset(sent.times_in_keys))


def _files(filesystem: FileSystem, paths: Sequence[str], view: str) -> list[_File]:
    try:
        found: list[Any] = filesystem.get_file_info(list(paths))
    except (OSError, pa.ArrowException) as error:
        raise FeatureStoreError(
            f"The files of feature view {view!r} cannot be read: {one_line(error)}. Check that they exist."
        ) from error
    for info in found:
        if not info.is_file:
            raise FeatureStoreError(
                f"The file {info.path} of feature view {view!r} does not exist on this machine. Executors of Spark read the sources "
                "of feature views: put the files into S3, or into a folder that all machines mount at the same path."
            )
    return [_File(path=info.path, size=info.size, changed=info.mtime_ns or 0) for info in found]
