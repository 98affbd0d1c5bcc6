"""Find the files that an ingestion reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.ingest.sources.listing import FoundFile, find_files
from airflow_mlops.stages.ingest.sources.suffixes import known_format
from airflow_mlops.stages.ingest.sources.urls import file_url
from airflow_mlops.stages.ingest.spec import IngestSpec

# Largest number of ignored files that a note names.
_MOST_NAMES = 10


@dataclass(frozen=True)
class DataFiles:
    """The files that an ingestion reads.

    :param files: the files, in the order in which they are read
    :param ignored: URLs of files that match the URLs of the spec but contain no data, without credentials
    :param notes: sentences for the user about the ignored files
    """

    files: list[FoundFile] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_data_files(spec: IngestSpec) -> DataFiles:
    """Return the files that match the URLs of the spec. The files of a URL are in order of their names.

    Files with the suffix of a data format are data; if ``format`` is set, only files with a suffix of this format. If
    no file of a URL has such a suffix, all its files are data. The other files are ignored, and a note names them.

    :raises SpecError: two URLs match the same file
    :raises MLOpsError: see :func:`~airflow_mlops.stages.ingest.sources.listing.find_files`
    """
    result = DataFiles()
    names: set[str] = set()
    for url in spec.files:
        for found in _with_data(find_files(url), spec, result):
            name = str(found.file.full_name)
            if name in names:
                raise SpecError(f"`files` names {file_url(found.file)} twice. Remove one of the two entries.")
            names.add(name)
            result.files.append(found)
    return result


def _with_data(found: list[FoundFile], spec: IngestSpec, result: DataFiles) -> list[FoundFile]:
    """Return the files of a URL that contain data, and add the others to ``result``."""
    formats = [known_format(one.file) for one in found]
    is_data = [form is not None and spec.format in (None, form) for form in formats]
    if all(is_data) or not any(is_data):
        return found
    ignored = [file_url(one.file) for one, data in zip(found, is_data, strict=True) if not data]
    result.ignored.extend(ignored)
    more = ", …" if len(ignored) > _MOST_NAMES else ""
    files = "1 file" if len(ignored) == 1 else f"{len(ignored):,} files"
    suffix = f"of the format {spec.format}" if spec.format else "of a data format"
    result.notes.append(
        f"Ignored {files} without a suffix {suffix}: {', '.join(ignored[:_MOST_NAMES])}{more}. Name such a file in "
        "`files`, and set `format`, to read it."
    )
    return [one for one, data in zip(found, is_data, strict=True) if data]
