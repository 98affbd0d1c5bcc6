"""Cache support of the stage ``ingest``, see :mod:`airflow_mlops.stages.cache`.

Files are identified by their content. Reading and hashing a file takes a small part of the time of parsing it. The rows
of a query cannot be identified without running the query.
"""

from __future__ import annotations

import re
import zoneinfo
from pathlib import Path
from typing import Any

import fsspec

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.fingerprints import file_sha256
from airflow_mlops.data.datasets import neighbouring_manifest
from airflow_mlops.stages.cache import point_to, verified
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources import identity
from airflow_mlops.stages.ingest.sources.data_files import DataFiles, find_data_files
from airflow_mlops.stages.ingest.sources.listing import FoundFile
from airflow_mlops.stages.ingest.sources.suffixes import ARROW_CODECS, has_tabs, known_format
from airflow_mlops.stages.ingest.sources.urls import file_url, without_credentials
from airflow_mlops.stages.ingest.spec import IngestResult, IngestSpec

_ZONE = re.compile(r"tz=([^\],>\s]+)")


def inputs(spec: IngestSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the ingestion: the files, and the columns of the neighbouring window.

    URLs are compared without credentials, because the signature in the URL of an unchanged file can change.

    :raises NotCacheableError: the source is a query
    :raises MLOpsError: the files do not exist or cannot be listed
    """
    found = _files(spec)
    hashes = identity.hashes(found.files)
    return {
        "spec": spec.model_dump(mode="json", exclude={"files"}),
        "urls": [without_credentials(url) for url in spec.files],
        "files": [
            [file_url(one.file), dict(one.partition), *_kind(one), sha256]
            for one, sha256 in zip(found.files, hashes, strict=True)
        ],
        "ignored": found.ignored,
        "neighbour": _neighbour(spec, context),
        "zones": _zones(spec),
    }


def _files(spec: IngestSpec) -> DataFiles:
    if spec.sql:
        raise NotCacheableError("only running a query shows whether its rows have changed")
    for url in spec.files:
        # A process that lists a folder twice may otherwise get the first list again.
        fsspec.url_to_fs(url)[0].invalidate_cache()
    return find_data_files(spec)


def _kind(one: FoundFile) -> list[Any]:
    """Return the properties of the format that follow from the name of a file. The name includes the query of a URL."""
    codec = next((suffix for suffix in ARROW_CODECS if one.file.path.endswith(suffix)), None)
    return [known_format(one.file), has_tabs(one.file), one.file.compression, codec]


def _neighbour(spec: IngestSpec, context: StepContext) -> list[list[str]] | None:
    """Return name and type of each column of the neighbouring window; ``None`` if there is no such window.

    Columns of files get these types.
    """
    found = neighbouring_manifest(context.store, spec.name, spec.window) if spec.window else None
    return [[column.name, column.type] for column in found.columns] if found else None


def _zones(spec: IngestSpec) -> dict[str, str]:
    """Return the hash of the file that defines each declared time zone. The file changes with the operating system.

    The hash is empty for an offset such as ``+01:00``, and for a zone that only the package ``tzdata`` defines. The
    cache compares the version of this package.
    """
    names = {name for kind in spec.types.values() for name in _ZONE.findall(kind)}
    places = {name: [Path(folder, name) for folder in zoneinfo.TZPATH] for name in sorted(names)}
    return {name: next((file_sha256(file) for file in files if file.is_file()), "") for name, files in places.items()}


def state(spec: IngestSpec, context: StepContext) -> list[str]:
    """Return what the file systems know about the files. This changes if a file is written while the step runs.

    :raises NotCacheableError: a web server does not say when a file changes
    """
    return identity.states(_files(spec).files)


def artifacts(result: IngestResult, spec: IngestSpec, context: StepContext) -> dict[str, str]:
    """Check the files of the dataset against their hashes, and return its name and id.

    :raises NotCacheableError: the dataset was purged
    :raises MLOpsError: the dataset does not exist any more, or was changed
    """
    return verified(context.store, result.dataset)


def replay(result: IngestResult, spec: IngestSpec, context: StepContext) -> IngestResult:
    """Make the dataset the current one of its window, or the newest snapshot, and log the notes about the data."""
    point_to(context.store, result.dataset)
    for note in result.notes:
        context.progress(note)
    return result.model_copy(update={"unchanged": True})
