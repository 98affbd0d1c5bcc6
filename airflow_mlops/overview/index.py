"""The index of models: the newest facts about each model, as small files in the artifact store.

Each file except the last one is a *section*. For a model called MODEL::

    indexes/models/MODEL/monitoring.json     from the monitoring reports
    indexes/models/MODEL/decisions.json      from the ledger
    indexes/models/MODEL/scoring.json        from the predictions MODEL_predictions
    indexes/models/MODEL/scoring-NAME.json   from the predictions NAME
    indexes/models/MODEL/candidate-DAG-vVERSION.json   from the last training of a DAG; DAG is a hash of its id
    indexes/models.json.gz                   a copy of all of these, which a page reads first

The step that changes a source computes the section of this source, and writes it to the index. ``airflow mlops index``
computes the sections again from the ledger, the reports and the predictions. It does not change the sections about
trainings, because their source is MLflow. The next training of a DAG writes a new section. An error of the index never
fails a step.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from pydantic import ValidationError

from airflow_mlops.core.errors import MLOpsError, StoreError
from airflow_mlops.data.store import ArtifactStore, pauses
from airflow_mlops.overview import copies, sections, sources
from airflow_mlops.overview.keys import FOLDER
from airflow_mlops.overview.sections import Kind, Section

log = logging.getLogger(__name__)

SNAPSHOT = "indexes/models.json.gz"
_VERSION = 2
# Written after the sections of all models were written once. Stores of earlier releases do not have it.
_COMPLETE = f"{FOLDER}/complete"
# If more sections than this have changed, the snapshot is written again. Until then, a process that starts reads each
# changed section from its own file.
_CHANGED = 4

# For these sections, the page of a model reads the ledger and the reports themselves, because it shows their history.
_WITH_HISTORY = (("decisions", None), ("monitoring", None))

# The sections that this process has read, by URL of the store.
_known: dict[str, dict[str, tuple[str, Any]]] = {}
_parsed_sections: dict[str, dict[str, tuple[str, Section]]] = {}


def update(store: ArtifactStore, model: str, kind: Kind, predictions: str | None = None) -> None:
    """Compute a section of the index, and write it. An error is only logged.

    Two steps may write the same section at the same time. After the write, each step checks whether the source has
    changed since the step read it. If so, the step computes the section again. Therefore the last write includes the
    changes of both steps.

    :param predictions: name of the datasets of predictions, for ``scoring``; by default ``MODEL_predictions``
    """
    try:
        for pause in pauses():
            seen = sections.state(store, model, kind, predictions)
            _write(store, sections.compute(store, model, kind, predictions), kind, predictions)
            if sections.state(store, model, kind, predictions) == seen:
                return
            time.sleep(pause)
        log.warning(
            "The index of model %r may be out of date, because other tasks changed the index in the meantime.", model
        )
    except Exception as error:  # noqa: BLE001 - the step has succeeded
        log.warning("The index of model %r was not updated, so pages in Airflow may show older facts: %s", model, error)


def _write(store: ArtifactStore, section: Section, kind: Kind, predictions: str | None) -> None:
    key = sections.key(section.model, kind, predictions)
    store.write_bytes(key, section.model_dump_json(exclude_defaults=True).encode())


def read(store: ArtifactStore) -> dict[str, list[Section]]:
    """Read the sections of all models, by name of the model.

    A store without an index, written by an earlier release, is read completely, and gets an index. Damaged sections,
    and sections of another version of this package, are computed again.

    :raises StoreError: the store cannot be read
    """
    listed = store.find_info(FOLDER)
    if _COMPLETE not in listed:
        rebuild(store)
        listed = store.find_info(FOLDER)
    listed = {key: info for key, info in listed.items() if _is_section(key)}
    # A process that has just started has read no sections.
    known = _known.get(store.url) or copies.load(store, SNAPSHOT, _VERSION)
    found = copies.read(store, listed, lambda key, content: content.decode(errors="replace"), known)
    if found.read > _CHANGED:
        copies.save(store, SNAPSHOT, _VERSION, found.values)
    _known[store.url] = found.values
    models: dict[str, list[Section]] = {}
    earlier, parsed = _parsed_sections.get(store.url, {}), {}
    for key, (stamp, content) in found.values.items():
        same = earlier.get(key)
        section = same[1] if same is not None and same[0] == stamp else _parsed(store, key, content)
        parsed[key] = (stamp, section)
        models.setdefault(section.model, []).append(section)
    _parsed_sections[store.url] = parsed
    return models


def forget() -> None:
    """Clear the sections that this process has read, so that the next call reads the store."""
    _known.clear()
    _parsed_sections.clear()


def _parsed(store: ArtifactStore, key: str, content: str) -> Section:
    try:
        return Section.model_validate_json(content)
    except ValidationError:
        return _repaired(store, key)


def _repaired(store: ArtifactStore, key: str) -> Section:
    model = sections.model_of(key)
    found = sections.kind_of(key)
    if found is None:
        # The section cannot be computed again, because only a training writes it.
        return Section(
            model=model, problem=f"The file {key} cannot be read. Delete the file; the next training writes a new one."
        )
    log.warning("The section %s of the index cannot be read. It is computed again.", key)
    try:
        section = sections.compute(store, model, *found)
    except MLOpsError as error:
        return Section(model=model, problem=str(error))
    update(store, model, *found)
    return section


def without_history(store: ArtifactStore, model: str) -> list[Section]:
    """Return the sections of a model about its predictions and its trainings, whose history the page does not show.

    :raises StoreError: the store cannot be read
    """
    present = store.keys(sections.key(model, "scoring").rpartition("/")[0])
    keys = [key for key in present if _is_section(key) and sections.kind_of(key) not in _WITH_HISTORY]
    if not present:
        # A store without an index.
        section = sections.compute(store, model, "scoring")
        return [section] if section.scoring is not None else []
    return _read(store, keys)


def of(store: ArtifactStore, model: str) -> list[Section]:
    """Return all sections of a model; an empty list if the index does not have the model.

    :raises StoreError: the store cannot be read
    """
    folder = sections.key(model, "decisions").rpartition("/")[0]
    keys = [key for key in store.keys(folder) if _is_section(key)]
    return _read(store, keys)


def _read(store: ArtifactStore, keys: list[str]) -> list[Section]:
    return [_parsed(store, key, content.decode(errors="replace")) for key, content in store.read_many(keys).items()]


def _is_section(key: str) -> bool:
    return sections.kind_of(key) is not None or sections.is_candidate(key)


def rebuild(store: ArtifactStore) -> list[str]:
    """Compute the sections of all models from the ledger, the reports and the predictions, and write them.

    :return: the names of the models
    :raises StoreError: the store cannot be read
    """
    models: set[str] = set()
    for model, kind, predictions in sources.find(store):
        models.add(model)
        update(store, model, kind, predictions)
    try:
        store.write_bytes(_COMPLETE, b"")
    except StoreError as error:
        log.warning("The index of models was not marked as complete, so the next reader builds it again: %s", error)
    return sorted(models)
