"""Cache support of the stage ``materialize_features``, see :mod:`airflow_mlops.stages.cache`.

The online store is outside the artifact store, and others may change it. A materialization is therefore cached only if
the whole state of the repository is in files on this machine. A cached result is used only if the registry, the online
store (SQLite) and the sources have exactly the bytes that the earlier task left.
"""

from __future__ import annotations

from typing import Any

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.data.feast import repository_code
from airflow_mlops.data.feast.local_files import LocalFiles
from airflow_mlops.data.selection import contents, select_whole
from airflow_mlops.stages.cache import require_unpurged
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesResult, MaterializeFeaturesSpec
from airflow_mlops.stages.materialize_features.watermark import Watermark


def inputs(spec: MaterializeFeaturesSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the materialization: configuration and code of the repository, and the published datasets.

    The files that the repository already has are compared in :func:`artifacts`.

    :raises NotCacheableError: registry or online store are not files on this machine, a dataset was purged, or the code
        of the repository is not known
    """
    files = LocalFiles(spec.repo)
    datasets = {
        name: select_whole(context.store, source.dataset, context.kept) for name, source in spec.sources.items()
    }
    for found in datasets.values():
        require_unpurged(found)
    return {
        "spec": spec.model_dump(mode="json", exclude={"sources"}),
        "folder": str(files.folder),
        "config": files.config,
        "code": repository_code.hashes(files.folder),
        "sources": {
            name: [contents(found), str(spec.sources[name].valid_from)] for name, found in sorted(datasets.items())
        },
    }


def artifacts(result: MaterializeFeaturesResult, spec: MaterializeFeaturesSpec, context: StepContext) -> dict[str, str]:
    """Return the hashes of the registry, of the online store and of the sources.

    :raises NotCacheableError: an earlier try had materialized a part of the window, a file was changed while the step
        ran or directly afterwards, or a source does not consist of local files
    :raises OSError: a file does not exist any more
    """
    if result.chunks_skipped:
        raise NotCacheableError("an earlier try had materialized a part of the window")
    files = LocalFiles(spec.repo)
    found = files.hashes(result.feature_views, spec.sources)
    # If this task has materialized the window, the files must be those that it has read and written.
    watermark = Watermark(context.store, context.key)
    states = {"sources": files.source_state(result.feature_views, spec.sources), "online": files.online_state()}
    if watermark.read() is not None and watermark.states() != states:
        raise NotCacheableError("a source or the online store was changed while the step ran")
    return found


def replay(
    result: MaterializeFeaturesResult, spec: MaterializeFeaturesSpec, context: StepContext
) -> MaterializeFeaturesResult:
    """Return the result of a task that has published no rows, because they were already published."""
    return result.model_copy(update={"published": {}})
