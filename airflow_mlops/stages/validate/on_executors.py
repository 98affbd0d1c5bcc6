"""The functions that executors run in a validation, see :mod:`airflow_mlops.stages.validate.spread`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mlops.data import sent_datasets
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.validate import divided, one_part
from airflow_mlops.stages.validate.parts import unpack
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.splitting import rounds_of


def facts_part(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the number of rows of a part, and the facts about their values, on an executor.

    :param number: number of the part, from 0
    """
    count, facts = one_part.facts(_rows(store, arguments), number, arguments["parts"])
    return {"rows": count, "facts": divided.to_json(facts)}


def check_part(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """Check the rows of a part on an executor, and return the result of each expectation as JSON values.

    :param number: number of the part, from 0
    """
    facts = divided.from_json(arguments["facts"])
    rows, parts = _rows(store, arguments), arguments["parts"]
    found = one_part.check(rows, arguments["expectations"], arguments["columns"], facts, number, parts)
    return [part.to_json() for part in found]


def split_part(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> None:
    """Write the valid and the failing rows of a part on an executor, to files that no manifest lists yet.

    :param number: number of the part, from 0
    """
    parts = arguments["parts"]
    rounds = rounds_of(store, arguments["group"], number, parts)
    failing = unpack(store.read_bytes(f"{arguments['folder']}/{number}").decode())
    one_part.write(store, _rows(store, arguments), failing, arguments["names"], rounds, number, parts)


def _rows(store: ArtifactStore, arguments: Mapping[str, Any]) -> Rows:
    datasets = [sent_datasets.restore(store, text) for text in arguments["datasets"]]
    return Rows(datasets, arguments["batch_rows"])
