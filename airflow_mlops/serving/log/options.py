"""The options of the log: which requests are logged, and how rows with different options are combined."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from airflow_mlops.data.predictions.privacy import hashed_or_dropped


def in_sample(request_id: str, share: float) -> bool:
    """Return whether a request is logged. The result depends on the arguments only.

    The id is hashed to a number from 0 to 1, and the request is logged if this number is less than ``share``. A larger
    share therefore includes all requests that a smaller share logs.

    :param request_id: id of the request
    :param share: share of the requests that are logged, 0 to 1
    """
    if share >= 1:
        return True
    digest = hashlib.blake2b(request_id.encode(), digest_size=8, person=b"mlops-log").digest()
    return int.from_bytes(digest, "big") < share * 2**64


def with_privacy(details: Mapping[str, Any], private: Mapping[str, Any]) -> dict[str, Any]:
    """Add the hashed and dropped columns to the facts for the manifest of predictions.

    A dropped column is no longer a key. A hashed or dropped column is no longer the event time.

    :param details: the facts, before columns are hashed or dropped
    :param private: the hashed and dropped columns, from :attr:`Privacy.details`
    """
    fates = hashed_or_dropped(private)
    timestamp = details.get("timestamp")
    return {
        **details,
        "keys": [key for key in details.get("keys", ()) if fates.get(key) != "dropped"],
        "timestamp": None if timestamp in fates else timestamp,
        **private,
    }


def strictest(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the privacy options of a dataset whose rows were logged with different options.

    A column is dropped if it was dropped from any rows. Otherwise, it is hashed if it was hashed in any rows. If the
    secret keys differ, the first key is used.

    :param details: the facts that were logged with each set of rows
    :return: the facts ``hashed``, ``dropped`` and ``hash_key_id`` of the dataset. Empty facts are left out
    """
    dropped = sorted({name for item in details for name in item.get("dropped", ())})
    hashed = sorted({name for item in details for name in item.get("hashed", ())} - {*dropped})
    keys = [item["hash_key_id"] for item in details if "hash_key_id" in item] if hashed else []
    return {
        **({"hashed": hashed, "hash_key_id": keys[0]} if hashed else {}),
        **({"dropped": dropped} if dropped else {}),
    }


def conformed(rows: pa.Table, details: Mapping[str, Any], wanted: Mapping[str, Any]) -> pa.Table:
    """Return rows with the privacy options of their dataset.

    The values of a hashed column are null if they were logged without a hash, or with the hash of another secret key.

    :param rows: the rows
    :param details: facts about the rows
    :param wanted: the options of the dataset, from :func:`strictest`
    """
    rows = rows.drop_columns([name for name in wanted.get("dropped", ()) if name in rows.column_names])
    same_key = details.get("hash_key_id") == wanted.get("hash_key_id")
    for name in wanted.get("hashed", ()):
        if name in rows.column_names and not (same_key and name in details.get("hashed", ())):
            rows = rows.set_column(rows.column_names.index(name), name, pa.nulls(rows.num_rows, pa.string()))
    return rows
