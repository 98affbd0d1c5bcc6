"""The windows of the datasets that a model reads, and the lineage from raw data to the model and its predictions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import Window, missing
from airflow_mlops.data.datasets.by_id import Finder, hints_of
from airflow_mlops.data.datasets.catalog import is_divided_source
from airflow_mlops.data.datasets.manifest import manifests_folder
from airflow_mlops.data.datasets.pointers import slots_of, windows_of
from airflow_mlops.data.quarantine import quarantine_name, quarantines_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import window_of
from airflow_mlops.overview import copies, scoring
from airflow_mlops.overview.facts import WindowFacts
from airflow_mlops.overview.scoring import LastScoring
from airflow_mlops.registry.records.entry import Entry

_VERSION = 3
# Largest number of datasets in the graph.
_NODES = 200


class DataWindow(Model):
    """The current dataset of a window.

    :param id: id of the dataset
    :param rows: number of rows; ``None`` if its manifest cannot be read. For online predictions, which are divided over
        several datasets, the number of rows of all of them
    :param quarantined: number of rows of the window that validation has quarantined
    :param replaced: number of earlier datasets of the same window
    """

    window: WindowFacts
    id: str
    rows: int | None
    quarantined: int = 0
    replaced: int = 0


class DatasetWindows(Model):
    """The windows of the datasets with the same name, ordered by time.

    :param missing: parts between the first and the last window that no window covers
    """

    name: str
    windows: list[DataWindow]
    missing: list[WindowFacts] = Field(default_factory=list)


class Node(Model):
    """A dataset, a model version, or predictions.

    :param id: id of the dataset, or name and number of the version
    :param kind: kind of the node. The rows of the kind ``predictions`` are made by a model
    :param name: name of the dataset or of the model; empty for a dataset that is not in the store
    :param label: text of the node: the window, the start of the id, or the version
    """

    id: str
    kind: Literal["dataset", "model", "predictions"]
    name: str
    label: str


class Lineage(Model):
    """A graph from raw data to the model and its predictions.

    :param edges: pairs of node ids: a source, and a dataset or model that was made from it
    """

    nodes: list[Node] = Field(default_factory=list)
    edges: list[tuple[str, str]] = Field(default_factory=list)


class ModelData(Model):
    """The datasets of a model with their windows, and the lineage from raw data to the predictions."""

    datasets: list[DatasetWindows] = Field(default_factory=list)
    lineage: Lineage = Lineage()


def model_data(store: ArtifactStore, model: str, entries: Sequence[Entry], scored: Sequence[LastScoring]) -> ModelData:
    """Return the data of the champion and of the last predictions.

    :param entries: entries of the ledger, oldest first
    :param scored: the last scorings of the model
    :raises StoreError: the store cannot be read
    """
    graph = _Graph(store)
    promoted = next((entry for entry in reversed(entries) if entry.decision == "promoted" and entry.champion), None)
    moved = next((entry for entry in reversed(entries) if entry.moves), None)
    champion = moved.champion if moved is not None else None
    if champion is not None:
        own = next((e for e in reversed(entries) if e.promotes(champion.version)), promoted)
        graph.add(Node(id=str(champion), kind="model", name=model, label=f"v{champion.version}"))
        trained = (
            next((o.dataset for o in own.origins if o.version == champion.version and o.dataset), None) if own else None
        )
        if own is not None and (trained or own.dataset_id):
            graph.walk(str(trained or own.dataset_id), str(champion), [own.dataset_name or ""])
    for item in scored:
        for manifest in scoring.newest(store, model, item.name):
            version = f"{model} v{manifest.details.get('model_version')}"
            label = manifest.window.label if manifest.window is not None else manifest.id[:12]
            graph.add(Node(id=manifest.id, kind="predictions", name=item.name, label=label))
            graph.add(Node(id=version, kind="model", name=model, label=version.removeprefix(f"{model} ")))
            graph.edges.append((version, manifest.id))
            for parent in manifest.parents:
                graph.walk(parent, manifest.id, [str(manifest.source.get("dataset") or "")])
    # A dataset that is not in this store has no name.
    names = sorted({node.name for node in graph.nodes.values() if node.kind != "model" and node.name})
    found = [_windows(store, name) for name in names]
    return ModelData(
        datasets=[item for item in found if item.windows],
        lineage=Lineage(nodes=list(graph.nodes.values()), edges=list(dict.fromkeys(graph.edges))),
    )


class _Graph:
    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []
        self._finder = Finder(store)

    def add(self, node: Node) -> None:
        self.nodes.setdefault(node.id, node)

    def walk(self, dataset_id: str, child: str, hints: Sequence[str]) -> None:
        """Add a dataset and all datasets from which it was computed.

        :param dataset_id: id of the dataset
        :param child: id of the node that was made from the dataset
        :param hints: names under which the dataset is looked for first
        """
        waiting = [(dataset_id, child, [*hints])]
        while waiting:
            wanted, made, names = waiting.pop()
            self.edges.append((wanted, made))
            if wanted in self.nodes or len(self.nodes) >= _NODES:
                continue
            known = sorted({node.name for node in self.nodes.values()})
            summary = self._finder.find([wanted], [*names, *known]).get(wanted)
            if summary is None:
                self.add(Node(id=wanted, kind="dataset", name="", label=wanted[:12]))
                continue
            label = summary.window.label if summary.window else wanted[:12]
            self.add(Node(id=wanted, kind="dataset", name=summary.name, label=label))
            waiting += [(parent, wanted, hints_of(summary)) for parent in summary.parents]


def _windows(store: ArtifactStore, name: str) -> DatasetWindows:
    pointers, manifests = _contents(store, name)
    parts = _parts(store, name, manifests)
    quarantined = {window: manifests[item].lost or 0 for window, item in pointers.items() if item in manifests}
    for other in quarantines_of(name):
        current, apart = _contents(store, other)
        for window, dataset_id in current.items():
            known = manifests.get(pointers.get(window, ""))
            # The manifest of the valid rows counts the failed rows of the same validation. The current quarantine may belong
            # to a later validation that was killed before its valid rows became current.
            if known is not None and known.lost is not None and other != quarantine_name(name):
                continue
            # The rows that failed the first validation are not among those of the second one.
            lost = apart[dataset_id].rows if dataset_id in apart else 0
            quarantined[window] = quarantined.get(window, 0) + lost
    written = Counter(item.window for item in manifests.values())
    windows = sorted(pointers, key=lambda window: (window.start, window.end))
    gaps = missing(Window(start=windows[0].start, end=max(w.end for w in windows)), windows) if windows else []
    return DatasetWindows(
        name=name,
        windows=[
            DataWindow(
                window=WindowFacts.of(window),
                id=pointers[window],
                rows=_rows(parts.get(window) or {pointers[window]}, manifests),
                quarantined=quarantined.get(window, 0),
                replaced=max(0, written[str(window)] - max(1, len(parts.get(window, ())))),
            )
            for window in windows
        ],
        missing=[WindowFacts.of(window) for window in gaps],
    )


class _Written(NamedTuple):
    """Fields of a manifest.

    :param divided: whether the dataset has only a part of the rows of its window
    :param lost: number of rows that were quarantined by the validation that wrote the dataset and by earlier validations
        of the same rows; ``None`` if no validation wrote the dataset
    """

    rows: int
    window: str | None
    divided: bool
    lost: int | None


def _rows(ids: Iterable[str], manifests: Mapping[str, _Written]) -> int | None:
    """Return the number of rows of some datasets together; ``None`` if a manifest cannot be read."""
    found = [manifests.get(dataset_id) for dataset_id in ids]
    return None if None in found else sum(item.rows for item in found if item is not None)


def _contents(store: ArtifactStore, name: str) -> tuple[dict[Window, str], dict[str, _Written]]:
    """Return the id of the current dataset of each window, and the fields of each manifest by the id of the dataset."""
    listed = {**windows_of(store, name).find_info(), **store.find_info(manifests_folder(name))}
    pointers, manifests = {}, {}
    for path, value in _read(store, f"indexes/datasets/{name}.json.gz", listed):
        if path.startswith(f"{manifests_folder(name)}/"):
            manifests[str(value["id"])] = _Written(
                int(value["rows"]), value["window"], bool(value["divided"]), value["lost"]
            )
        elif (window := window_of(path)) is not None:
            pointers[window] = str(value["id"])
    return pointers, manifests


def _parts(store: ArtifactStore, name: str, manifests: Mapping[str, _Written]) -> dict[Window, set[str]]:
    """Return the ids of the datasets that divide the rows of a window. Each has its own slot."""
    found: dict[Window, set[str]] = {}
    if not any(item.divided for item in manifests.values()):
        return found
    for _, value in _read(store, f"indexes/datasets/{name}.slots.json.gz", slots_of(store, name).find_info()):
        manifest = manifests.get(str(value["id"]))
        if manifest is not None and manifest.divided and manifest.window is not None:
            found.setdefault(Window.model_validate(manifest.window), set()).add(str(value["id"]))
    return found


def _read(store: ArtifactStore, key: str, listed: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key and the short content of each listed file that can be read.

    :param key: key of the object with copies of the files
    """
    listed = {path: info for path, info in listed.items() if not path.rpartition("/")[2].startswith(".")}
    if not listed:
        return
    found = copies.read(store, listed, _short, copies.load(store, key, _VERSION))
    if found.read:
        copies.save(store, key, _VERSION, found.values)
    yield from ((path, value) for path, (_, value) in found.values.items() if isinstance(value, dict))


def _short(key: str, content: bytes) -> Any:
    """Return the fields of a pointer, slot or manifest that :func:`_windows` needs; ``None`` if the file is damaged."""
    try:
        found = json.loads(content)
        source = found.get("source") or {}
        return {
            "id": str(found["id"]),
            "rows": int(found.get("rows", 0)),
            "window": found.get("window"),
            "divided": is_divided_source(found.get("source")),
            "lost": int(found["details"].get("quarantined", 0)) if source.get("kind") == "validation" else None,
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
