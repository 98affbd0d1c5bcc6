"""The stored reference of the attributions of a version, ``attributions/MODEL/VERSION.npz``."""

from __future__ import annotations

import io
import json

import numpy as np
from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.attributions import Sample


class Origin(Model):
    """How attributions were computed and sampled. Only attributions of the same origin are compared.

    :param run_id: id of the MLflow run of the version
    :param scale: detail ``attribution_scale`` of the predictions; ``None`` without this detail
    :param method: detail ``attribution_method`` of the predictions; ``None`` without this detail
    :param without: names of the hashed and dropped features, in alphabetical order
    :param groups: name of the column of the clusters; ``None`` if rows are sampled
    """

    run_id: str = Field(title="the MLflow run of the version")
    scale: str | None = Field(title="the scale")
    method: str | None = Field(title="the method")
    without: list[str] = Field(title="the hashed and dropped features")
    groups: str | None = Field(title="`groups`")

    def changes(self, now: Origin) -> list[str]:
        """Return a clause for each field whose value differs in ``now``."""
        return [
            f"{field.title} changed from {_text(before)} to {_text(after)}"
            for name, field in Origin.model_fields.items()
            if (before := getattr(self, name)) != (after := getattr(now, name))
        ]


class About(Model):
    """The description that is stored with the numbers of a reference.

    :param window: the window of the sample
    :param version: number of the version
    :param features: names of the features with attributions
    """

    window: Window
    version: int
    origin: Origin
    features: list[str]


class DamagedReferenceError(Exception):
    """The stored reference cannot be read. The message names the cause."""


class Reference:
    """A reference.

    :param about: window, version, origin and features
    :param sample: the sample of the window
    """

    def __init__(self, about: About, sample: Sample) -> None:
        self.about, self.sample = about, sample

    def equals(self, other: Reference) -> bool:
        """Return whether ``other`` has the same window, origin, features and numbers."""
        return self.about == other.about and np.array_equal(self.sample.sums, other.sample.sums)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        target = io.BytesIO()
        about = np.frombuffer(self.about.model_dump_json().encode(), dtype=np.uint8)
        np.savez_compressed(target, about=about, sums=self.sample.sums)
        return target.getvalue()


def read(store: ArtifactStore, key: str) -> Reference | None:
    """Return the stored reference; ``None`` if there is none.

    :raises DamagedReferenceError: the file cannot be read
    """
    try:
        content = store.read_bytes(key)
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            about, sums = About.model_validate(json.loads(file["about"].tobytes())), file["sums"].astype(float)
    except Exception as error:  # an error of zipfile, zlib, NumPy, JSON or pydantic
        raise DamagedReferenceError(type(error).__name__) from error
    if sums.ndim != 2 or sums.shape[1] != len(about.features) or not np.isfinite(sums).all():
        raise DamagedReferenceError("its numbers do not match its features")
    return Reference(about, Sample(about.features, sums))


def _text(value: str | list[str] | None) -> str:
    if isinstance(value, list):
        value = ", ".join(value)
    return value or "none"
