"""Hash the key columns of labels as scoring hashed them in the predictions."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.core.errors import SchemaError, SpecError, named
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.predictions.privacy import Pseudonymizer
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec


def pseudonymizers(
    predictions: Sequence[Dataset], spec: JoinLabelsSpec, context: StepContext
) -> dict[str, Pseudonymizer]:
    """Return the pseudonymizer for each column of ``on`` that scoring hashed, by name of the column.

    :raises SchemaError: scoring dropped a column of ``on``, or hashed it only in some windows
    :raises SpecError: ``hash_conn_id`` is not set, or the secret key of the connection differs from the key that
        scoring used
    """
    details = [dataset.manifest.details for dataset in predictions]
    name = predictions[0].manifest.name
    if dropped := [key for key in spec.on if any(key in item.get("dropped", ()) for item in details)]:
        raise SchemaError(
            f"Dataset {name!r} has no {named('column', dropped)}, because scoring has "
            "`drop_columns`. Use `hash_columns` for scoring instead, or set `on` to columns that exist."
        )
    hashed = [key for key in spec.on if any(key in item.get("hashed", ()) for item in details)]
    if not hashed:
        return {}
    if not all(key in item.get("hashed", ()) for key in hashed for item in details):
        raise SchemaError(
            f"In dataset {name!r}, scoring hashed the {named('column', hashed)} in some windows but not in "
            "others. Join labels to these windows in separate tasks."
        )
    if spec.hash_conn_id is None:
        raise SpecError(
            f"In dataset {name!r}, scoring hashed the {named('column', hashed)}. "
            "Set `hash_conn_id` to the connection whose password scoring used as the secret key."
        )
    pseudonymizer = Pseudonymizer.from_connection(context.connection(spec.hash_conn_id))
    if any(item["hash_key_id"] != pseudonymizer.key_id for item in details):
        raise SpecError(
            f"Dataset {name!r} was hashed with a secret key different from the password of connection "
            f"{spec.hash_conn_id!r}, so no label would match. Set `hash_conn_id` to the connection whose password "
            "scoring used as the secret key."
        )
    return dict.fromkeys(hashed, pseudonymizer)
