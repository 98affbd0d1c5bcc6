"""Encode features for boosted trees: numbers in single precision, and category codes for texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import FeatureColumn
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.inputs import column, numbers, texts
from airflow_mlops.models.trainers.vocabulary import most_frequent

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoding:
    """The conversion of rows to a matrix.

    A value of a text feature is replaced by its category code, which is its position in the vocabulary of the feature.
    A value that is not in the vocabulary is replaced by NaN.

    :param features: the features, in the order of the columns
    :param vocabularies: for each text feature, the values that have a code, which are the most frequent values of the
        training rows
    """

    features: list[FeatureColumn]
    vocabularies: dict[str, list[str]]

    @property
    def categorical(self) -> list[int]:
        """Return the positions of the text features."""
        return [place for place, feature in enumerate(self.features) if feature.kind == "string"]

    @classmethod
    def learn(
        cls,
        features: Sequence[FeatureColumn],
        batches: Iterable[pa.RecordBatch | pa.Table],
        *,
        nulls: bool,
        known: Mapping[str, list[str]] | None = None,
    ) -> Encoding:
        """Learn the vocabularies in one pass over the training rows.

        :param features: the features
        :param batches: the text features of the training rows
        :param nulls: whether nulls are a separate category; otherwise they are missing values
        :param known: vocabularies of an earlier model, whose codes are kept
        """
        names = [feature.name for feature in features if feature.kind == "string"]
        counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        if names:
            for batch in batches:
                for name in names:
                    found = texts(column(batch, name), name)
                    sums = np.bincount(found.indices.to_numpy(), minlength=len(found.dictionary))
                    counts[name].update(dict(zip(found.dictionary.to_pylist(), sums.tolist(), strict=True)))
        vocabularies = {}
        for name, counter in counts.items():
            if not nulls:
                counter.pop("", None)
            earlier = (known or {}).get(name, [])
            for text in earlier:
                counter.pop(text, None)
            vocabularies[name] = [*earlier, *most_frequent(+counter, len(earlier))]
        return cls(list(features), vocabularies)

    def matrix(self, data: pa.RecordBatch | pa.Table) -> NDArray[np.float32]:
        """Encode rows, shape (n, number of features).

        :raises TrainingError: a number is infinite, or beyond single precision
        """
        found = np.empty((data.num_rows, len(self.features)), dtype=np.float32)
        for place, feature in enumerate(self.features):
            values = column(data, feature.name)
            if feature.kind == "string":
                found[:, place] = self._codes(texts(values, feature.name), feature.name)
                continue
            given = numbers(values, feature.name)
            if np.isinf(given).any():
                raise TrainingError(
                    f"Feature {feature.name!r} has infinite values, or values beyond single precision (3.4e38). Replace them "
                    "with nulls, or remove these rows."
                )
            found[:, place] = given
        return found

    def _codes(self, values: pa.DictionaryArray, name: str) -> NDArray[np.float32]:
        if not len(values.dictionary):
            return np.full(len(values), np.nan, dtype=np.float32)
        known = pa.array(self.vocabularies[name], values.dictionary.type)
        codes = pc.index_in(values.dictionary, known).cast(pa.float32()).to_numpy(zero_copy_only=False)
        return np.asarray(codes[values.indices.to_numpy()], dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        return {
            "features": [feature.model_dump(mode="json") for feature in self.features],
            "vocabularies": self.vocabularies,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Encoding:
        return cls([FeatureColumn.model_validate(item) for item in content["features"]], dict(content["vocabularies"]))
