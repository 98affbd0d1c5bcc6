"""The model versions that the server has loaded: the champion, and the champion before it."""

from __future__ import annotations

import base64
import json
import logging
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.data.datasets.catalog import read_manifest
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.catalog import realised
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry.cache import InUse
from airflow_mlops.serving.rows.online_features import Lookup, OnlineFeatures
from airflow_mlops.serving.rows.request import InputColumns, Rows
from airflow_mlops.serving.spec import ServeSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.metrics.predictions import Predictions
log = logging.getLogger(__name__)

_KEPT = 2


@dataclass(frozen=True)
class Served:
    """A loaded model version.

    :param ref: the version
    :param model: the loaded model
    :param columns: the fields of a row of a request
    :param lookup: looks up features in Feast's online store; ``None`` if the server looks up no features, or no feature
        comes from Feast
    :param folder: the downloaded files; ``None`` in the process that only writes the log
    :param in_use: keeps these files in the cache
    """

    ref: ModelVersionRef
    model: OnnxModel
    columns: InputColumns
    lookup: Lookup | None = None
    folder: Path | None = None
    in_use: InUse | None = None
    loaded: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @classmethod
    def load(
        cls,
        ref: ModelVersionRef,
        folder: Path,
        store: ArtifactStore,
        spec: ServeSpec,
        features: OnlineFeatures | None = None,
        *,
        other: bool = False,
    ) -> Served:
        """Load a version from its downloaded files, and predict one row, so that the first request is not slow.

        :param ref: the version
        :param folder: the downloaded files
        :param store: the artifact store
        :param spec: settings of the server
        :param features: the Feast repository in which features are looked up
        :param other: whether the version is loaded in addition to the champion, as a canary or shadow. Columns to hash
            or drop may then be absent
        :raises ModelFormatError: the version has no ONNX model, or the model cannot be loaded
        :raises SchemaError: predictions are logged, and a column to hash or drop is absent or cannot be hashed
        :raises StoreError: the artifact store cannot be reached. The columns of the training set are read from it
        :raises FeatureStoreError: the Feast repository does not have a feature of the version
        :raises FileNotFoundError: the files were removed from the cache
        """
        in_use = InUse(folder)
        model = OnnxModel.load(folder)
        contract = model.contract
        training, schema, keys = _training(ref, store, contract)
        columns = InputColumns(contract, schema, keys)
        lookup = features.lookup(contract, columns, training) if features else None
        served = cls(ref, model, columns, lookup, folder, in_use)
        if spec.log:
            where = None if other else f"The predictions of {ref} have"
            served.columns.require_private(spec.hash_columns, spec.drop_columns, where)
        served.predict(served.columns.rows([example(contract)]))
        return served

    def predict(self, rows: Rows) -> Predictions:
        """Predict the rows of a request."""
        return self.model.predict_values(rows.features, rows.count)

    @property
    def details(self) -> dict[str, Any]:
        """Return the facts for the manifest of the predictions.

        Batch scoring records the same facts. ``keys`` and ``timestamp`` also name columns that the log later hashes or
        drops.
        """
        contract = self.model.contract
        return {
            "model": self.ref.model,
            "model_version": self.ref.version,
            "run_id": self.ref.run_id,
            "engine": self.model.engine,
            "task": contract.task,
            "classes": contract.classes,
            "positive": contract.positive,
            "metrics": realised(contract.task, contract.metrics),
            "judged_by": contract.judged_by,
            "features": [feature.name for feature in contract.features],
            "keys": self.columns.keys,
            "timestamp": self.columns.timestamp,
        }

    @cached_property
    def description(self) -> str:
        """Return the facts for the process that writes the log, as JSON. They are sent up to ten times a second."""
        import pyarrow as pa

        carried = pa.schema(list(self.columns.carried.items()))
        return json.dumps(
            {
                "ref": self.ref.model_dump(mode="json"),
                "contract": self.model.contract.model_dump_json(),
                "engine": self.model.engine,
                "carried": base64.b64encode(carried.serialize().to_pybytes()).decode(),
                "keys": self.columns.keys,
            }
        )


def example(contract: ModelContract) -> dict[str, Any]:
    """Return a row with a valid value for each feature."""
    values: dict[str, Any] = {"number": 0.0, "integer": 0, "string": ""}
    return {feature.name: values[feature.kind] for feature in contract.features}


def _training(
    ref: ModelVersionRef, store: ArtifactStore, contract: ModelContract
) -> tuple[Manifest | None, pa.Schema | None, list[str]]:
    """Return the manifest, the columns and the keys of the training set; ``None`` and no keys if they cannot be read.

    :raises StoreError: the artifact store cannot be reached. Otherwise, the log of predictions would have no keys
    """
    from airflow_mlops.data.datasets import Dataset

    store.require()
    training = None
    try:
        training = read_manifest(store, contract.dataset_name, contract.dataset_id)
        return training, Dataset(store, training).schema, list(training.details.get("keys", []))
    except MLOpsError as error:
        if error.retryable:
            raise
        log.info("Requests for %s can contain only its features. Its training set cannot be read: %s", ref, error)
        return training, None, []


class Versions:
    """The loaded versions. A new champion replaces the previous champion in one step, between two requests.

    :ivar share: share of the requests that the version answers as a canary, according to MLflow; ``None`` if MLflow
        records no share
    :ivar changed: time of the last change, in seconds since 1970; 0 before the first change
    """

    def __init__(self) -> None:
        self._loaded: list[Served] = []
        self.share: float | None = None
        self.changed = 0.0

    @property
    def champion(self) -> Served | None:
        """Return the champion; ``None`` if no version is loaded yet."""
        return self._loaded[0] if self._loaded else None

    def find(self, version: str | None) -> Served | None:
        """Return a loaded version by its number; the champion if the number is ``None``."""
        if version is None:
            return self.champion
        return next((served for served in self._loaded if str(served.ref.version) == version), None)

    def promote(self, served: Served) -> None:
        """Make a loaded version the champion. The former champion stays loaded."""
        others = [other for other in self._loaded if other.ref.version != served.ref.version]
        self._loaded = [served, *others][:_KEPT]
        self.changed = time.time()

    def clear(self) -> None:
        """Unload all versions."""
        self._loaded = []
        self.changed = time.time()

    @property
    def numbers(self) -> list[str]:
        """Return the numbers of the loaded versions, the champion first."""
        return [str(served.ref.version) for served in self._loaded]
