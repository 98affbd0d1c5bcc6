"""Add empty files to a stopped azurite. Uploading 90,000 files would take minutes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def add_empty_files(location: Path, keys: Sequence[str]) -> None:
    """Write empty files into the list of files of azurite (a LokiJS database, as azurite 3.37 writes it).

    :param location: folder of azurite, which contains the first of the files
    :param keys: keys of the files in the folder ``mlops``
    """
    database = location / "__azurite_db_blob__.json"
    content = json.loads(database.read_text())
    (blobs,) = (item for item in content["collections"] if item["name"] == "$BLOBS_COLLECTION$")
    files = blobs["data"]
    (model,) = (file for file in files if file["name"] == f"mlops/{keys[0]}")
    files += [
        {**model, "name": f"mlops/{key}", "$loki": blobs["maxId"] + place} for place, key in enumerate(keys[1:], 1)
    ]
    blobs["maxId"] += len(keys) - 1
    for field, index in blobs["binaryIndices"].items():
        index["values"] = sorted(range(len(files)), key=lambda place: files[place][field])
    database.write_text(json.dumps(content))
