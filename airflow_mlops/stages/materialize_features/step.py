"""Apply a Feast repository, and write the feature values of a time window to the online store, chunk by chunk."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import FeatureStoreError, MaterializationError, NotCacheableError, named, one_line
from airflow_mlops.core.windows import Window
from airflow_mlops.data.feast import online_loss, online_tables
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.local_files import LocalFiles
from airflow_mlops.data.feast.parquet_source import is_parquet, require_nanoseconds, require_timestamps
from airflow_mlops.data.feast.publishing import SourceFolder, source_columns
from airflow_mlops.data.feast.request import ViewRequest, has_function
from airflow_mlops.data.selection import select_whole
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.materialize_features.spec import (
    MaterializeFeaturesResult,
    MaterializeFeaturesSpec,
    PublishedSource,
)
from airflow_mlops.stages.materialize_features.watermark import Watermark

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.repo_contents import RepoContents

log = logging.getLogger("airflow_mlops.stages")

# Windows of Feast include their end; windows of this package do not.
_TICK = timedelta(microseconds=1)


def run(spec: MaterializeFeaturesSpec, context: StepContext) -> MaterializeFeaturesResult:
    """Publish datasets as Feast sources, apply the repository, and materialize the window chunk by chunk.

    A chunk that an earlier try of the task materialized is skipped.

    :raises FeatureStoreError: the repository or one of its feature views cannot be used
    :raises MaterializationError: Feast failed to materialize a chunk. A retry of the task continues with this chunk
    """
    context = context.for_call()
    store = feast_repo.open_store(spec.repo)
    watermark = Watermark(context.store, context.key)
    resumed = watermark.read()
    published: dict[str, int] = {}
    if resumed is None:
        with feast_repo.locked(store):
            # The present rows of the sources are those that were materialized.
            losses = _losses(store, spec, context)
            published = _prepare(store, spec, context)
    with feast_repo.locked(store, shared=True):
        views = _views(store, spec.feature_views)
        features = _features(store, views)
        files = _Files(spec, views)
        online_tables.create_missing(store)
        if resumed is not None:
            losses = _losses(store, spec, context)
    lost = {**{name: loss.first for name, loss in losses.items()}, **watermark.lost()}
    lost = {name: first for name, first in lost.items() if name in views}
    if lost:
        watermark.write_lost(lost)
    valid_from = {name: source.valid_from for name, source in spec.sources.items() if source.valid_from is not None}
    for name, first in lost.items():
        what = losses.get(name, "has lost rows of")
        context.progress(
            f"The online store {what} {name!r}, which was materialized before, so it is materialized from {first.isoformat()} on."
        )
    online = _Online(store, views, valid_from, lost)
    online.require_nanoseconds()
    done, skipped = 0, 0
    for chunk in spec.window.split(spec.chunk):
        if resumed is not None and chunk.end <= resumed:
            skipped += 1
            continue
        with feast_repo.locked(store):
            online.materialize(chunk)
            states = files.states()
        watermark.write(chunk.end, states)
        done += 1
        context.progress(f"Materialized {', '.join(views) or 'no feature view'} for {chunk.label}.")
    return MaterializeFeaturesResult(
        project=store.project,
        window=spec.window,
        feature_views=views,
        features=features,
        chunks=done,
        chunks_skipped=skipped,
        published=published,
        summary=_summary(store.project, spec.window, views, done, skipped, published),
    )


def _losses(store: FeatureStore, spec: MaterializeFeaturesSpec, context: StepContext) -> dict[str, online_loss.Loss]:
    """Find the feature views whose rows are no longer in the online store. Create the store if it was lost."""
    known = (*store.list_batch_feature_views(), *store.list_stream_feature_views())
    names = spec.feature_views or [view.name for view in known]
    try:
        return online_loss.find(store, names)
    except FeatureStoreError as error:
        log.debug("%s", error)
    try:
        with feast_repo.quietly():
            online_tables.create(store)
        return online_loss.find(store, names)
    except Exception as error:  # noqa: BLE001 - if the store cannot be written either, the first chunk fails and says so
        context.progress(
            f"Whether the online store still has the rows that were materialized is unknown: {one_line(error)}"
        )
        return {}


def _prepare(store: FeatureStore, spec: MaterializeFeaturesSpec, context: StepContext) -> dict[str, int]:
    """Publish the sources, then register the definitions of the repository.

    The order matters, because Feast may infer column types from the published files.

    :return: number of published rows by name of the source
    """
    published: dict[str, int] = {}
    if not (spec.apply or spec.sources):
        return published
    contents = feast_repo.parse_repo(store)
    for name, source in spec.sources.items():
        rows = _publish(store, contents, name, source, context)
        if rows is not None:
            published[name] = rows
            context.progress(f"Published {counted(rows, 'row')} as source {name!r}.")
    if spec.apply:
        feast_repo.apply(store, contents)
    return published


def _publish(
    store: FeatureStore, contents: RepoContents, name: str, source: PublishedSource, context: StepContext
) -> int | None:
    from feast import FileSource

    known = {item.name: item for item in contents.data_sources if isinstance(item, FileSource)}
    if name not in known:
        raise FeatureStoreError(
            f"The Feast repository {store.repo_path} has no file source {name!r}. Correct the name in `sources`. "
            f"File sources: {', '.join(map(repr, sorted(known))) or 'none'}."
        )
    folder = SourceFolder(store, known[name], source_columns(known[name], contents), context.store)
    datasets = []
    for given in select_whole(context.store, source.dataset, context.kept):
        datasets.append(dataset := folder.newest(given, source.valid_from))
        if dataset is not given:
            what = given.window.label if given.window else "the snapshot"
            context.progress(
                f"Source {name!r} keeps dataset {dataset.manifest.id[:12]} of {what}, because it became current after "
                f"the given dataset ({given.manifest.id[:12]})."
            )
    replaced = folder.replaced_by(datasets)
    rows = [folder.publish(dataset, source.valid_from) for dataset in datasets]
    folder.remove(replaced)
    written = [count for count in rows if count is not None]
    return sum(written) if written else None


class _Files:
    """The states of the files that the step reads and writes.

    The cache uses them to detect that another program has changed the files.

    :param spec: parameters of the step
    :param views: names of the feature views to materialize
    """

    def __init__(self, spec: MaterializeFeaturesSpec, views: list[str]) -> None:
        self._files: LocalFiles | None = None
        # Without local files, the cache is not used.
        with suppress(NotCacheableError, OSError):
            files = LocalFiles(spec.repo)
            self._sources = files.source_state(views, spec.sources)
            self._files = files

    def states(self) -> dict[str, Any] | None:
        """Return the states of the sources before the materialization, and of the online store now.

        :return: ``None`` if the states are unknown, for example because a file is not on this machine
        """
        if self._files is None:
            return None
        with suppress(OSError):
            return {"sources": self._sources, "online": self._files.online_state()}
        return None


def _views(store: FeatureStore, requested: list[str] | None) -> list[str]:
    """Return the names of the feature views to materialize.

    The names are in the order of ``requested``. If ``requested`` is ``None``, they are the names of all feature views
    that are served online, sorted, without stream feature views that have a function. Feast would apply the function to
    the batch source, which contains its results, so the online store would get other values than a training set.

    :raises FeatureStoreError: a requested feature view does not exist, is not served online, or is a stream feature view
        with a function
    """
    streams = store.list_stream_feature_views()
    computed = {view.name for view in streams if has_function(view)}
    refused = [name for name in requested or () if name in computed]
    if refused:
        raise FeatureStoreError(
            f"Stream feature view {refused[0]!r} has a function, which Feast would apply again to the batch source when it materializes "
            "the view, so training and serving would get different values. Remove the view from `feature_views`, and write its "
            "rows to the online store with Feast's `push`."
        )
    online = {
        view.name
        for view in (*store.list_batch_feature_views(), *streams)
        if view.online and getattr(view, "enabled", True) and view.name not in computed
    } | {view.name for view in store.list_on_demand_feature_views() if view.write_to_online_store}
    unknown = [name for name in requested or () if name not in online]
    if unknown:
        raise FeatureStoreError(
            f"Feast project {store.project!r} has no {named('feature view', unknown)} that is served "
            f"online. Correct `feature_views`. Feature views served online: {', '.join(sorted(online)) or 'none'}."
        )
    return list(requested) if requested is not None else sorted(online)


def _features(store: FeatureStore, views: Sequence[str]) -> dict[str, dict[str, str]]:
    known = (
        *store.list_batch_feature_views(),
        *store.list_stream_feature_views(),
        *store.list_on_demand_feature_views(),
    )
    return {
        view.name: {field.name: str(field.dtype) for field in view.features} for view in known if view.name in views
    }


class _Online:
    """Writes chunks to the online store of a Feast project. Newer values are never replaced by older values.

    Feast itself writes the newest values of the materialized window, even if the online store contains newer values. If
    an old window is materialized again, this class therefore passes Feast a window that ends at the newest materialized
    time.

    :param store: the Feast project
    :param views: names of the feature views to materialize
    :param snapshots: for each source that is a snapshot, the time from which its rows are valid
    :param lost: for each feature view whose materialized rows are no longer in the online store, the start of its first
        materialized interval
    """

    def __init__(
        self, store: FeatureStore, views: Sequence[str], snapshots: dict[str, datetime], lost: dict[str, datetime]
    ) -> None:
        self._store = store
        self._views = views
        self._snapshots = snapshots
        self._lost = lost
        self._reached: dict[str, datetime] = {}

    def require_nanoseconds(self) -> None:
        """Check that Feast does not change the INT96 timestamps of Parquet sources when it reads them as nanoseconds.

        :raises FeatureStoreError: a timestamp does not fit into 64-bit nanoseconds
        """
        for request in self._parquet_views(self._views):
            require_nanoseconds(self._store, request)

    def materialize(self, chunk: Window) -> None:
        """Write the feature values of one chunk of the window to the online store.

        :raises MaterializationError: Feast failed to materialize the chunk
        :raises FeatureStoreError: the event times of a Parquet source are not timestamps
        """
        for (start, end), names in self._calls(chunk).items():
            try:
                with feast_repo.quietly():
                    self._store.materialize(start, end, feature_views=names)
            except Exception as error:
                self._require_timestamps(names)
                raise MaterializationError(
                    f"Feast failed to materialize {', '.join(names)} for {chunk.label}: {one_line(error)}."
                    f"{feast_repo.hint(error)} Earlier chunks are materialized. A retry of the task continues with "
                    "this chunk."
                ) from error
            self._reached.update(dict.fromkeys(names, end))

    def _require_timestamps(self, names: Sequence[str]) -> None:
        """Check that the event times of Parquet sources are timestamps. Feast's own error does not name the source.

        :raises FeatureStoreError: the event times of a Parquet source are not timestamps
        """
        for request in self._parquet_views(names):
            require_timestamps(self._store, request)

    def _parquet_views(self, names: Collection[str]) -> Iterator[ViewRequest]:
        for view in self._store.list_batch_feature_views():
            request = ViewRequest(view, view.name, {}, {})
            if view.name in names and is_parquet(self._store, request):
                yield request

    def _calls(self, chunk: Window) -> dict[tuple[datetime, datetime], list[str]]:
        """Return the calls of Feast that materialize a chunk.

        The keys are the start and end times of the calls, and the values are the names of the feature views. One call
        materializes all feature views with the same times.
        """
        calls: dict[tuple[datetime, datetime], list[str]] = {}
        last = chunk.end - _TICK
        known = {
            view.name: view
            for view in (*self._store.list_batch_feature_views(), *self._store.list_stream_feature_views())
        }
        for name in self._views:
            if name in self._reached and self._reached[name] >= last:
                continue
            view = known.get(name)
            start = chunk.start
            source = view.batch_source.name if view is not None and view.batch_source is not None else None
            if source in self._snapshots and name not in self._reached:
                # A snapshot stays valid, so its rows belong to every later window.
                start = min(start, self._snapshots[source])
            if name in self._lost and name not in self._reached:
                start = min(start, self._lost[name])
            newest = view.most_recent_end_time if view is not None else None
            calls.setdefault((start, max(last, newest) if newest else last), []).append(name)
        return calls


def _summary(project: str, window: Window, views: list[str], done: int, skipped: int, published: dict[str, int]) -> str:
    sources = "".join(f"published {counted(rows, 'row')} as {name}, " for name, rows in published.items())
    earlier = f" ({skipped} more chunks by an earlier try)" if skipped else ""
    what = ", ".join(views) or "no feature view"
    text = f"{sources}materialized {what} of Feast project {project} for {window.label} in {done} chunks{earlier}."
    return text[0].upper() + text[1:]
