"""Merge the logged predictions of a window and version into one dataset, to which labels can be joined.

A dataset records the files from which it was made. If there are further files, a dataset that also has their rows
replaces it. Files are kept for at least two days after the end of their window. Any number of servers can therefore
merge files at the same time: if a server has missed a file, the next merge replaces its dataset.

If the servers of a window hashed or dropped different columns, the dataset hashes or drops all of these columns
(:func:`strictest`).

If ScoreOperator has written predictions of the same window and version, both datasets are kept. Selecting the window is
then an error.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import Apart
from airflow_mlops.data.datasets import Dataset, DatasetWriter, Manifest
from airflow_mlops.data.datasets.catalog import is_divided, read_manifest
from airflow_mlops.data.datasets.pointers import slot_id
from airflow_mlops.data.predictions import log as prediction_log
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.layout import DETAILS, SHARE, online_folder
from airflow_mlops.serving.log.options import conformed, strictest, with_privacy

log = logging.getLogger(__name__)

_FILE = re.compile(r"^v(?P<version>\d+)-[0-9a-f]{32}\.parquet$")
# Time after the end of a window within which servers upload their last predictions for the window.
_MARGIN = timedelta(minutes=1)
# Time from the end of a merged window to the deletion of its files.
_KEPT = timedelta(days=2)


def merge(
    store: ArtifactStore, model: str, name: str, now: datetime | None = None, *, apart: Apart | None = None
) -> list[Manifest]:
    """Write the datasets of all windows that have ended and have unmerged files.

    :param store: the artifact store
    :param model: name of the registered model
    :param name: name of the datasets of predictions
    :param now: current time; windows that end later are not merged
    :param apart: ``shadow`` or ``canary`` for predictions of a shadow or canary version; ``None`` for the champion
    :return: the manifests of the new datasets
    :raises StoreError: the store cannot be used
    """
    now = now or datetime.now(timezone.utc)
    groups: dict[tuple[Window, int], list[str]] = defaultdict(list)
    for key in store.find(online_folder(model, apart)):
        folder, file = key.split("/")[-2:]
        window, found = Window.from_file_name(folder), _FILE.match(file)
        if window is not None and found is not None and window.end + _MARGIN <= now:
            groups[window, int(found["version"])].append(key)
    written = []
    for (window, version), keys in sorted(groups.items(), key=lambda item: (item[0][0].start, item[0][1])):
        files = sorted(key.rsplit("/", 1)[1] for key in keys)
        slot = prediction_log.slot(ModelVersionRef(model=model, version=version, run_id=""), window, [], None)
        manifest = _current(store, name, slot)
        if manifest is not None and not is_divided(manifest):
            # With a slot of its own, the dataset replaces nothing. A task that selects the window then fails.
            slot = f"{slot}-online"
            manifest = _current(store, name, slot)
            log.warning("In %s, both servers and ScoreOperator have written predictions of v%d.", window.label, version)
        merged = (manifest.source or {})["online"] if manifest is not None else []
        if manifest is None or not set(files) <= set(merged):
            new = sorted(key for key in keys if key.rsplit("/", 1)[1] not in merged)
            before = Dataset(store, manifest) if manifest is not None and manifest.purged is None else None
            try:
                written.append(_write(store, model, name, window, version, slot, before, merged, new))
            except SchemaError as error:
                log.error("The online predictions of v%d in %s are not merged: %s", version, window.label, error)
        elif window.end + _KEPT <= now:
            for key in keys:
                store.delete(key)
    if written and apart is None:
        # Imported only if needed, because the import takes 3 MB of a server's memory.
        from airflow_mlops.overview import index

        index.update(store, model, "scoring", name)
    return written


def _current(store: ArtifactStore, name: str, slot: str) -> Manifest | None:
    current = slot_id(store, name, slot)
    return read_manifest(store, name, current) if current is not None else None


def _write(
    store: ArtifactStore,
    model: str,
    name: str,
    window: Window,
    version: int,
    slot: str,
    before: Dataset | None,
    merged: list[str],
    new: list[str],
) -> Manifest:
    """Write a dataset with the rows of new files and, if it exists, of the current dataset.

    :param before: the current dataset; ``None`` if there is none, or if it was purged
    :param merged: names of the files in the current dataset. The files may be deleted already
    :param new: keys of the new files
    """
    facts = [_facts(store, key) for key in new]
    parts = [*([(before.manifest.details, before.rows)] if before is not None else []), *facts]
    options = strictest([details for details, _ in parts])
    with DatasetWriter(store, name, prediction_log.folder(window, version)) as writer:
        for batch in before.batches() if before is not None else ():
            writer.write(conformed(pa.Table.from_batches([batch]), parts[0][0], options).replace_schema_metadata(None))
        for key, (details, _) in zip(new, facts, strict=True):
            # Without threads, because Python aborts if Arrow's threads still hold Python objects when the process ends.
            with pq.ParquetFile(io.BytesIO(store.read_bytes(key))) as parquet:
                table = parquet.read(use_threads=False)
            writer.write(conformed(table, details, options).replace_schema_metadata(None))
        return writer.commit(
            window=window,
            description=f"Online predictions of {model} v{version}",
            source={
                "online": sorted([*merged, *(key.rsplit("/", 1)[1] for key in new)]),
                "model": model,
                "model_version": version,
            },
            details=with_privacy(facts[-1][0], options) | prediction_log.sampled(parts),
            slots=[slot],
        )[0]


def _facts(store: ArtifactStore, key: str) -> tuple[dict[str, Any], int]:
    """Return the facts about the rows of a file, and the number of the rows."""
    with store.open(key) as file, pq.ParquetFile(file) as parquet:
        details = json.loads((parquet.schema_arrow.metadata or {}).get(DETAILS, b"{}"))
        rows: int = parquet.metadata.num_rows
    share = details.pop(SHARE, 1.0)
    return details | ({"sample": {str(share): rows}} if share < 1 else {}), rows
