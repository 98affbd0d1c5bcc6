"""Hashes of everything that determines the features of a join: definitions, code of the repository, and source rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from pyarrow.fs import LocalFileSystem

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.fingerprints import file_sha256, fingerprint
from airflow_mlops.data.feast import parquet_source, repository_code
from airflow_mlops.data.feast.remembered import Source
from airflow_mlops.data.feast.request import FeatureRequest

if TYPE_CHECKING:
    from feast import FeatureStore


def describe(store: FeatureStore, request: FeatureRequest) -> dict[str, Any]:
    """Return hashes of everything that determines the features, as JSON.

    The registry file itself is not hashed, because each materialization changes it.

    :param store: the Feast repository
    :param request: the features to join
    :raises NotCacheableError: the source of a feature view does not consist of local Parquet files, or the code of an
        on-demand feature view is not known
    """
    return {
        "refs": request.refs,
        "views": [
            {
                "alias": item.alias,
                "join_keys": item.join_keys,
                "features": {name: str(kind) for name, kind in item.features.items()},
                "definition": _definition(item.view),
                "files": _files(store, item),
            }
            for item in request.views
        ],
        "on_demand": [
            {"alias": item.alias, "features": item.features, "definition": _definition(item.view)}
            for item in request.on_demand
        ],
        "code": _code(store.repo_path, [item.view for item in request.on_demand]) if request.on_demand else {},
        "project": store.project,
        "offline_store": str(store.config.offline_store.type),
    }


def sources(store: FeatureStore, request: FeatureRequest) -> list[Source] | None:
    """Return the files of each feature view of a join.

    :return: ``None`` if Feast computes features with functions, which may use code of all files, or a source cannot be
        described by the names of its files
    """
    if request.on_demand:
        return None
    try:
        roots = [parquet_source.place(store, item)[1] for item in request.views]
        # The order of the two listings matters: a file that is written between them must be in the second one only.
        named = [Source.of(root, []) for root in roots]
        files = [parquet_source.open_files(store, item).files for item in request.views]
        return [item.model_copy(update={"files": list(found)}) for item, found in zip(named, files, strict=True)]
    except OSError:
        return None


def _definition(view: Any) -> str:
    """Return a hash of the definition of a view, without the times at which it was applied or materialized.

    The bytes of a pickled function differ each time it is pickled. If Feast runs the source text of the function, this
    text is hashed instead.
    """
    content = json_format.MessageToDict(view.to_proto().spec, preserving_proto_field_name=True)
    return fingerprint(_lasting(content))


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        # `field_mapping` may contain a column called "meta", whose value is a text.
        times = {"meta"} if isinstance(value.get("meta"), dict) else set()
        pickled = {"body"} if _is_run(value.get("body_text")) else set()
        return {name: _lasting(item) for name, item in value.items() if name not in times | pickled}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _is_run(text: Any) -> bool:
    """Return whether Feast runs the source text of a function instead of the pickled function.

    The source text does not identify a pickled function, because the function contains more than the text.
    """
    if not isinstance(text, str):
        return False
    try:
        from feast.transformation.udf_rehydrate import rehydrate_udf_from_source
    except ImportError:
        # Earlier releases of Feast run the pickled function.
        return False
    return rehydrate_udf_from_source(text) is not None


def _files(store: FeatureStore, item: Any) -> list[str]:
    if not parquet_source.is_parquet(store, item):
        raise NotCacheableError(
            f"the source of feature view {item.view.name!r} does not consist of Parquet files, so its rows have no hash"
        )
    dataset = parquet_source.open_files(store, item)
    if not isinstance(dataset.filesystem, LocalFileSystem):
        raise NotCacheableError(f"the source of feature view {item.view.name!r} is not on this machine")
    return [file_sha256(Path(file)) for file in dataset.files]


def _code(folder: Path, views: Iterable[Any]) -> dict[str, str]:
    """Return the hashes of the repository's modules, and of all modules that they import.

    :param views: on-demand feature views, whose functions may use all of these modules
    :raises NotCacheableError: a module is not known, or the repository on this machine does not define a function
    """
    texts = [file.read_text(encoding="utf-8") for file in folder.rglob("*.py")]
    for view in views:
        content = json_format.MessageToDict(view.to_proto().spec, preserving_proto_field_name=True)
        # The function itself is in the registry, but only its file shows which modules it uses.
        if not all(any(function.strip() in text for text in texts) for function in _functions(content)):
            raise NotCacheableError(
                f"no file in {folder} contains the function of on-demand feature view {view.name!r} as it is in the registry, so the "
                "code that it uses is not known"
            )
    return repository_code.hashes(folder)


def _functions(value: Any) -> Iterator[str]:
    """Yield the source text of each function in a definition."""
    if isinstance(value, dict):
        if isinstance(text := value.get("body_text"), str):
            yield text
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _functions(item)
