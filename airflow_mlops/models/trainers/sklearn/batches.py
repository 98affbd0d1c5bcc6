"""Fit a scikit-learn estimator by ``partial_fit``, with one batch of rows in memory (``SklearnTrainer(batch_rows=...)``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core import imports
from airflow_mlops.core.errors import SpecError, TrainingError, named
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.sklearn import checkpoint, preprocessing
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec
from airflow_mlops.models.trainers.weights import read_weights

if TYPE_CHECKING:
    import pandas as pd

# Number of rows from which a transformer learns the names and types of the features, but no statistics.
_HEAD = 1_000


class Batches:
    """The training rows in batches. A batch has the rows at ``rows`` consecutive positions of the split part.

    Batches do not depend on the files. Rows that are set aside are left out, so batches may be smaller.

    :param data: names and types of the features. Without ``run``, also their values in all rows
    :param run: the training set; ``None`` for rows in memory
    :param rows: number of rows of a batch
    """

    def __init__(self, data: TrainingData, run: TrainingRun | None, rows: int) -> None:
        self._data, self._run, self._rows = data, run, rows
        total = len(data.labels) if run is None else sum(file.rows for file in run.dataset.files(run.part))
        self._count = -(-total // rows)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return (self.read(batch) for batch in range(len(self)))

    def read(self, batch: int) -> pd.DataFrame:
        """Read the features of one batch."""
        place = range(batch * self._rows, (batch + 1) * self._rows)
        if self._run is None:
            return self._data.frame.iloc[place.start : place.stop]
        names = [feature.name for feature in self._data.features]
        read = self._run.dataset.batches(self._run.part, names, self._rows, place)
        return frame(pa.Table.from_batches(list(read)), self._data.features)


def require_partial_fit(path: str) -> None:
    """Check that an estimator class has ``partial_fit``, before rows are read.

    :param path: import path of the class
    :raises SpecError: the class does not exist, or has no ``partial_fit``
    """
    _require(imports.load(path, "estimator"), path)


def _require(estimator: Any, path: str) -> None:
    if not hasattr(estimator, "partial_fit"):
        raise SpecError(
            f"The trainer has batch_rows=, but {path} has no partial_fit with its params. Use an estimator that learns from "
            "batches, such as sklearn.linear_model.SGDClassifier, or set max_rows= instead of batch_rows=."
        )


def fit(
    estimator: Any,
    user: Any,
    spec: SklearnTrainerSpec,
    data: TrainingData,
    seed: int,
    run: TrainingRun | None,
) -> Any:
    """Fit an estimator and its preprocessing, and return the pipeline of both.

    The first pass over the rows computes the statistics of the preprocessing. In each of the ``epochs`` passes that
    follow, the batches are read in random order, and the rows of each batch are shuffled. A retry continues after the last
    complete epoch, with the same result.

    :param estimator: the estimator, which is not fitted yet
    :param user: the user's transformer, which is not fitted yet; ``None`` for the default by column type
    :param spec: the trainer
    :param data: the labels of all rows. With ``run``, the features of some rows, otherwise of all rows
    :param seed: seed of the order of batches and rows
    :param run: the training set; ``None`` for rows in memory
    :raises SpecError: the estimator or the user's transformer has no ``partial_fit``
    :raises TrainingError: the rows have weights that the estimator does not accept, or a numeric feature has only nulls
    """
    from sklearn.pipeline import make_pipeline

    assert spec.batch_rows is not None
    _require(estimator, spec.estimator)
    arguments: dict[str, Any] = {}
    if data.task != "regression":
        arguments["classes"] = np.array(data.classes, dtype=data.labels.dtype)
    weights = read_weights(data, run)
    if weights is not None and "sample_weight" not in signature(estimator.partial_fit).parameters:
        raise TrainingError(
            f"The rows of the training set have weights (Decay, `sample_weight` or `class_weight`), but partial_fit() of {spec.estimator} "
            "does not accept sample_weight. Use another estimator, or remove the weights."
        )
    batches = Batches(data, run, spec.batch_rows)
    if user is None:
        transformer, sizes = _by_column_type(estimator, data, batches)
    else:
        transformer, sizes = _by_user(user, spec, batches)
    ends = np.cumsum(sizes)
    random = np.random.default_rng((seed, 2**32 + 2))
    done = 0
    if run is not None and spec.epochs > 1:
        done, estimator = checkpoint.read(run, spec, estimator)
        if done:
            run.progress(f"Resuming from the checkpoint after epoch {done} of {spec.epochs}.")
    for epoch in range(spec.epochs):
        for batch in random.permutation(len(batches)):
            if not sizes[batch]:
                continue
            rows = random.permutation(sizes[batch])
            if epoch < done:
                # The epoch is complete. Its random numbers are drawn only so that the later epochs have the same order.
                continue
            places = ends[batch] - sizes[batch] + rows
            if weights is not None:
                arguments["sample_weight"] = weights[places]
            inputs = transformer.transform(batches.read(int(batch)).iloc[rows])
            estimator.partial_fit(inputs, data.labels[places], **arguments)
        if run is not None and epoch >= done:
            run.progress(f"Epoch {epoch + 1} of {spec.epochs}: {spec.label} has seen {sum(sizes):,} rows.")
            if epoch + 1 < spec.epochs:
                checkpoint.write(run, spec, estimator, epoch + 1)
    return make_pipeline(transformer, estimator)


def _by_column_type(estimator: Any, data: TrainingData, batches: Batches) -> tuple[Any, list[int]]:
    """Fit the default preprocessing in one pass.

    Nulls are replaced by the mean, because a median needs all values at once. The standard deviation is that of the
    values that are not null.

    :return: the fitted transformer, and the number of rows of each batch
    :raises TrainingError: a numeric feature has only nulls
    """
    import pandas as pd
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    numeric, categorical = preprocessing.feature_names(data)
    counts: dict[str, Counter[str]] = {name: Counter() for name in categorical}
    # Each feature has its own scaler, because the mean becomes NaN if a feature has only nulls in a batch.
    scalers, sizes = {name: StandardScaler() for name in numeric}, []
    for rows in batches:
        sizes.append(len(rows))
        for name, scaler in scalers.items():
            values = rows[name].to_numpy()
            if len(values := values[~np.isnan(values)]):
                scaler.partial_fit(values.reshape(-1, 1))
        for name, found in counts.items():
            found.update(rows[name].tolist())
    if empty := [name for name, scaler in scalers.items() if not hasattr(scaler, "mean_")]:
        raise TrainingError(
            f"The training rows have only nulls for the {named('feature', empty)}. Remove features without values from the "
            "training set, or fill them."
        )
    transformer = preprocessing.by_column_type(estimator, data, counts).fit(data.frame.head(_HEAD))
    if numeric:
        together = StandardScaler().fit(np.zeros((1, len(numeric))))
        for name in ("mean_", "var_", "scale_"):
            setattr(together, name, np.concatenate([getattr(scaler, name) for scaler in scalers.values()]))
        together.n_samples_seen_ = np.array([scaler.n_samples_seen_ for scaler in scalers.values()])
        imputer = SimpleImputer(strategy="mean").fit(pd.DataFrame([together.mean_], columns=numeric))
        # The steps that were fitted to the first rows are replaced by those that were fitted to all rows.
        transformer.named_transformers_["numbers"].steps[:] = [("simpleimputer", imputer), ("standardscaler", together)]
    return transformer, sizes


def _by_user(transformer: Any, spec: SklearnTrainerSpec, batches: Batches) -> tuple[Any, list[int]]:
    """Fit the user's transformer in one pass.

    :return: the fitted transformer, and the number of rows of each batch
    :raises SpecError: the transformer has no ``partial_fit``
    """
    if not hasattr(transformer, "partial_fit"):
        raise SpecError(
            f"The trainer has batch_rows=, but the transformer {type(transformer).__name__} of {spec.preprocessing} has no "
            "partial_fit. Return a transformer that learns from batches, such as StandardScaler or MinMaxScaler, remove "
            "`preprocessing`, or set max_rows= instead of batch_rows=."
        )
    sizes = []
    for rows in batches:
        sizes.append(len(rows))
        if len(rows):
            transformer.partial_fit(rows)
    return transformer, sizes
