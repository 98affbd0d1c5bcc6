"""The files of a Feast repository on this machine: the registry, an online store in SQLite, and source files.

The files are found without importing Feast, which takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.fingerprints import file_sha256
from airflow_mlops.data.feast.remembered import names_in, registry_file, registry_message
from airflow_mlops.data.feast.repository import lock_file

# SQLite writes transactions to these files first.
_UNFINISHED = ("-wal", "-journal")


class LocalFiles:
    """The files of a Feast repository whose state is completely on this machine.

    :param repo: folder of the Feast repository
    :ivar folder: absolute path of the folder
    :ivar config: text of ``feature_store.yaml``, in which variables are replaced
    :raises NotCacheableError: the registry is not a local file, or the online store is not a local SQLite file
    :raises OSError: the configuration cannot be read
    """

    def __init__(self, repo: str) -> None:
        import yaml

        self.folder = Path(repo).expanduser().absolute()
        path = Path(os.environ.get("FEAST_FS_YAML_FILE_PATH", self.folder / "feature_store.yaml"))
        # Feast expands the variables in the same way.
        self.config = os.path.expandvars(path.read_text())
        registry = registry_file(self.folder, self.config)
        if registry is None:
            raise NotCacheableError("the registry of the Feast repository is not a file on this machine")
        content = yaml.safe_load(self.config)
        online = content.get("online_store")
        if not isinstance(online, dict) or online.get("type") != "sqlite" or not isinstance(online.get("path"), str):
            raise NotCacheableError("only reading all rows back shows whether the online store still has them")
        self._project = content.get("project")
        self._registry = registry
        self._online = self.folder / online["path"]

    def hashes(self, views: Sequence[str], sources: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of the registry, of the online store, and of each file of the sources of feature views.

        :param views: names of the feature views
        :param sources: names of further file sources
        :raises NotCacheableError: a source does not consist of local files, or the online store is being written
        :raises OSError: a file does not exist
        """
        with lock_file(self._registry, shared=True):
            if any(os.path.exists(f"{self._online}{suffix}") for suffix in _UNFINISHED):
                raise NotCacheableError("the online store has an unfinished transaction")
            files = [self._registry, self._online, *self._source_files(views, sources)]
            return {str(file): file_sha256(file) for file in files}

    def online_state(self) -> list[Any]:
        """Return the size, times and inode of the registry and of the online store.

        Every write changes at least one of them.
        """
        return [_state(file) for file in (self._registry, self._online)]

    def source_state(self, views: Sequence[str], sources: Iterable[str]) -> list[Any]:
        """Return the size, times and inode of each file of the sources. Every write changes at least one of them.

        :param views: names of the feature views
        :param sources: names of further file sources
        :raises NotCacheableError: a source does not consist of local files
        :raises OSError: a file does not exist
        """
        return [_state(file) for file in self._source_files(views, sources)]

    def _source_files(self, views: Sequence[str], sources: Iterable[str]) -> Iterator[Path]:
        registry = registry_message().FromString(self._registry.read_bytes())
        known = {
            view.spec.name: view.spec.batch_source
            for view in (*registry.feature_views, *registry.stream_feature_views)
            if view.spec.project == self._project
        }
        published = {item.name: item for item in registry.data_sources if item.project == self._project}
        roots = [
            *(self._root(known.get(name), f"of feature view {name!r}") for name in views),
            *(self._root(published.get(name), repr(name)) for name in sources),
        ]
        for root in dict.fromkeys(roots):
            names = names_in(str(root))
            yield from (root / name for name in names) if names or root.is_dir() else (root,)

    def _root(self, source: Any, what: str) -> Path:
        uri = source.file_options.uri.removeprefix("file://") if source is not None else ""
        if not uri or "://" in uri:
            raise NotCacheableError(f"the source {what} does not consist of files on this machine")
        return self.folder / uri


def _state(file: Path) -> list[Any]:
    found = file.stat()
    return [str(file), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
