"""Functions that open, read and apply Feast repositories. A lock lets only one task at a time write a registry file."""

from __future__ import annotations

import fcntl
import importlib
import io
import linecache
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import FeatureStoreError, named, one_line
from airflow_mlops.core.isolation import FolderModules, without

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.repo_contents import RepoContents

log = logging.getLogger("airflow_mlops.stages")

# Feast's errors name an optional dependency of Feast.
_EXTRA = re.compile(r"feast\[[\w.-]+\]")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@contextmanager
def lean_imports() -> Iterator[None]:
    """Make the import of Feast inside the block about four times as fast.

    PyTorch and typeguard take most of the import time. Feast uses PyTorch only to return tensors, and typeguard only to
    check the types of arguments. Steps need neither, so both are disabled inside the block. After the block, they can
    be imported as usual.
    """
    import typeguard

    typechecked = typeguard.typechecked
    unchecked: Any = lambda target=None, **_: target if target is not None else lambda decorated: decorated  # noqa: E731
    typeguard.typechecked = unchecked
    try:
        with without("torch"):
            yield
    finally:
        typeguard.typechecked = typechecked


def open_store(repo: str) -> FeatureStore:
    """Open the Feast repository in the folder ``repo``.

    :raises FeatureStoreError: the folder contains no repository, or Feast cannot use its configuration
    """
    folder = Path(repo).expanduser().absolute()
    config = Path(os.environ.get("FEAST_FS_YAML_FILE_PATH", folder / "feature_store.yaml"))
    if not config.is_file():
        inner = folder / "feature_repo" / "feature_store.yaml"
        right = str(inner.parent) if inner.is_file() else "the folder that contains this file"
        raise FeatureStoreError(
            f"{folder} is not a Feast repository, because it has no feature_store.yaml. Set `repo` to {right}."
        )
    unset = sorted({name for name in _VARIABLE.findall(config.read_text()) if name not in os.environ})
    if unset:
        plural, verb, object_ = ("s", "are", "them") if len(unset) > 1 else ("", "is", "it")
        raise FeatureStoreError(
            f"{config} uses the environment variable{plural} {', '.join(unset)}, which {verb} not set where the step runs. "
            f"Set {object_} for the Airflow workers, or with run_on=Process(env={{...}})."
        )
    # This logger writes "Registry cache expired" dozens of times in every task.
    logging.getLogger("feast.infra.registry").setLevel(logging.WARNING)
    try:
        with lean_imports(), quietly():
            from feast import FeatureStore

            store = FeatureStore(repo_path=str(folder))
            _make_folders(store)
            # Reading these properties loads the modules of the configured stores, and reads the registry.
            with lock_file(_registry_file(store), shared=True):
                _ = store.registry, store.provider
    except Exception as error:
        advice = _missing_package(error) or "Correct this file."
        raise FeatureStoreError(
            f"Feast cannot open the repository configured in {config}: {one_line(error)}. {advice}"
        ) from error
    return store


def _missing_package(error: BaseException | None) -> str:
    """Return a sentence that names the package that a store of Feast needs; empty if no package is missing."""
    while error is not None:
        if found := _EXTRA.search(str(error)):
            return f"The store needs packages that are not installed. Install {found[0]} where the step runs."
        error = error.__cause__
    return ""


def _make_folders(store: FeatureStore) -> None:
    # Feast creates a missing folder, but not its parents.
    for path in (_registry_file(store), getattr(store.config.online_store, "path", None)):
        if path and "://" not in str(path):
            (store.repo_path / path).parent.mkdir(parents=True, exist_ok=True)


def _registry_file(store: FeatureStore) -> Path | None:
    registry = store.config.registry
    path = str(getattr(registry, "path", "") or "")
    if getattr(registry, "registry_type", "file") != "file" or not path or "://" in path:
        return None
    return store.repo_path / path


@contextmanager
def locked(store: FeatureStore, shared: bool = False) -> Iterator[None]:
    """Lock the registry file of the repository during the block, and read the registry again when the block starts.

    Feast reads the whole registry file, changes it and writes it back in place. Without a lock, a task could overwrite
    the changes of a concurrent task, or read an incomplete file. Registries in a database or an object store are not
    locked.

    :param shared: whether the block only reads the registry. Other readers may then hold the lock at the same time
    """
    registry = _registry_file(store)
    with lock_file(registry, shared):
        # The previous holder of the lock may have changed the file.
        if registry is not None and registry.exists():
            refresh: Callable[[], None] = store.refresh_registry
            refresh()
        yield


@contextmanager
def lock_file(registry: Path | None, shared: bool) -> Iterator[None]:
    """Lock a registry file during the block, if it is a local file whose lock file can be written.

    :param registry: the registry file; ``None`` if the registry is in a database or an object store
    :param shared: whether the block only reads the registry
    """
    lock = Path(f"{registry}.lock")
    # A task without write access to the lock file cannot change the registry either.
    if registry is None or not os.access(lock if lock.exists() else lock.parent, os.W_OK):
        yield
        return
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with lock.open("ab") as handle:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Waiting for another task that has locked the Feast registry %s.", registry)
            fcntl.flock(handle, kind)
        yield


def missing_features(store: FeatureStore, service: str | None, refs: Sequence[str]) -> list[str]:
    """Find the features that are no longer in the Feast registry.

    :param store: the Feast repository
    :param service: name of the feature service that must contain the features; ``None`` if feature views are enough
    :param refs: features as ``view:feature``, with the aliases that the service gives to its views
    :return: the features of ``refs`` that do not exist
    :raises FeatureStoreError: the registry cannot be read
    """
    try:
        with locked(store, shared=True):
            views = {view.name: {field.name for field in view.features} for view in store.list_all_feature_views()}
            services = {item.name: item.feature_view_projections for item in store.list_feature_services()}
    except Exception as error:
        raise FeatureStoreError(
            f"The registry of Feast project {store.project!r} cannot be read: {one_line(error)}. "
            "Check the registry configured in feature_store.yaml."
        ) from error
    if service is None:
        offered = {f"{view}:{name}" for view, names in views.items() for name in names}
    else:
        offered = {
            f"{item.name_to_use()}:{field.name}"
            for item in services.get(service, ())
            for field in item.features
            if field.name in views.get(item.name, ())
        }
    return [ref for ref in refs if ref not in offered]


def parse_repo(store: FeatureStore) -> RepoContents:
    """Import the repository's Python files and return their Feast definitions, as ``feast apply`` does.

    :raises FeatureStoreError: a file cannot be imported, or defines a project different from ``feature_store.yaml``
    """
    with lean_imports():
        repo_operations = importlib.import_module("feast.repo_operations")
        from feast import Project

    # Symbolic links would break the relative paths of Feast.
    folder = store.repo_path.resolve()
    try:
        with _imports_of(folder, repo_operations.get_repo_files), quietly():
            contents: RepoContents = repo_operations.parse_repo(folder)
    except (Exception, SystemExit) as error:
        raise FeatureStoreError(
            f"The Feast repository {folder} cannot be imported ({_where(error, folder)}): {one_line(error)}. Correct "
            "this file."
        ) from error
    names = [project.name for project in contents.projects]
    if not names:
        contents.projects.append(Project(name=store.project, description=store.config.project_description or ""))
    elif names != [store.project]:
        raise FeatureStoreError(
            f"The Feast repository {folder} defines the {named('project', names)}, but its "
            f"feature_store.yaml names the project {store.project!r}. Use the same project name in both."
        )
    return contents


def apply(store: FeatureStore, contents: RepoContents) -> None:
    """Register the definitions of a repository, and remove all other definitions, as ``feast apply`` does.

    :param store: the Feast repository
    :param contents: definitions of the repository, from :func:`parse_repo`
    :raises FeatureStoreError: Feast rejects the definitions
    """
    with lean_imports():
        from feast.repo_operations import apply_total_with_repo_instance
    try:
        with quietly():
            apply_total_with_repo_instance(store, store.project, store.registry, contents, skip_source_validation=False)
    except (Exception, SystemExit) as error:
        raise FeatureStoreError(
            f"Feast could not apply the repository {store.repo_path}: {one_line(error)}."
            f"{hint(error) or ' Correct its definitions.'}"
        ) from error


@contextmanager
def _imports_of(folder: Path, files_of: Callable[[Path], list[Path]]) -> Iterator[None]:
    """Make the modules in ``folder`` importable inside the block, and unload them afterwards.

    Feast imports the modules by short names such as ``definitions``. Other repositories or the DAGs folder may use the
    same names.
    """
    names = {file.relative_to(folder).parts[0].removesuffix(".py") for file in files_of(folder)}
    cwd, bytecode = Path.cwd(), sys.dont_write_bytecode
    with FolderModules(folder, names).active():
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        os.chdir(folder)
        importlib.invalidate_caches()
        # Feast registers the source text of functions. This process may remember the text of an earlier version of a file.
        linecache.checkcache()
        try:
            yield
        finally:
            os.chdir(cwd)
            sys.dont_write_bytecode = bytecode


@contextmanager
def quietly() -> Iterator[None]:
    """Redirect Feast's coloured output and progress bars from the task's log to a debug message."""
    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            yield
    finally:
        log.debug("Output of Feast: %s", output.getvalue())


def _where(error: BaseException, folder: Path) -> str:
    """Return the file and line of the repository in which an error was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)]
    return f"{Path(own[-1].filename).relative_to(folder)}, line {own[-1].lineno}" if own else folder.name


def hint(error: BaseException) -> str:
    """Return a sentence that explains how to fix an error of Feast; empty if the cause is unknown."""
    if isinstance(error, FileNotFoundError):
        return " The file of a source does not exist. Write the file first, or publish a dataset to the source with `sources`."
    return ""
