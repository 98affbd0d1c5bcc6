"""What ``TrainOperator(trainer=...)`` takes. Importing this package imports no machine-learning library.

Trainers are plain JSON, so that a task can be mapped over them and they show in Airflow's pages. Each kind has a
module here whose ``fit`` does the work when the step runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Serialization = Literal["skops", "cloudpickle"]


class SklearnTrainer(dict[str, Any]):
    """Trains a scikit-learn estimator; preprocessing is fitted with it and is part of the model.

    InterpretML's ``interpret.glassbox.ExplainableBoostingClassifier`` and ``...Regressor`` (extra ``interpret``) take the
    features as they are, and tell in MLflow what they have learned.

    :param estimator: import path of the estimator's class, as in ``sklearn.linear_model.LogisticRegression``
    :param params: its keyword arguments
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``.
        Unless given, numbers are imputed (median) where the estimator takes no NaN and scaled unless it is made of
        trees, and text becomes codes for trees and one-hot columns of its 100 most frequent values for the rest
    :param name: what the candidate is called in MLflow; the class's name unless given
    :param trusted_types: types outside scikit-learn, NumPy, SciPy and InterpretML's glass boxes that the stored model may
        hold
    :param serialization: ``cloudpickle`` stores models that skops cannot, and can run code when they are loaded
    """

    def __init__(
        self,
        estimator: str,
        params: dict[str, Any] | None = None,
        *,
        preprocessing: str | None = None,
        name: str | None = None,
        trusted_types: Sequence[str] = (),
        serialization: Serialization = "skops",
    ) -> None:
        super().__init__(
            kind="sklearn",
            estimator=estimator,
            params=params or {},
            preprocessing=preprocessing,
            name=name,
            trusted_types=list(trusted_types),
            serialization=serialization,
        )


class FunctionTrainer(dict[str, Any]):
    """Trains with a function of your own, called as ``function(X, y, params=params, seed=seed)``.

    ``X`` is a pandas DataFrame of the features (float64, and text), ``y`` a NumPy array of the labels. It returns a
    fitted estimator with scikit-learn's interface that takes such a DataFrame and can be exported to ONNX.

    :param function: its import path, as in ``my_package.my_module:train``; the module must be importable where the
        step runs, as is one beside the DAG files
    :param params: any JSON, handed over as it is
    :param name: what the candidate is called in MLflow; the function's name unless given
    :param trusted_types: types outside scikit-learn, NumPy, SciPy and InterpretML's glass boxes that the stored model may
        hold
    :param serialization: ``cloudpickle`` stores models that skops cannot, and can run code when they are loaded
    """

    def __init__(
        self,
        function: str,
        params: dict[str, Any] | None = None,
        *,
        name: str | None = None,
        trusted_types: Sequence[str] = (),
        serialization: Serialization = "skops",
    ) -> None:
        super().__init__(
            kind="function",
            function=function,
            params=params or {},
            name=name,
            trusted_types=list(trusted_types),
            serialization=serialization,
        )


class TorchTrainer(dict[str, Any]):
    """Trains a network on batches that are streamed from the training set, on a GPU if there is one.

    A checkpoint goes to the artifact store every ``checkpoint_every`` steps, and a retry goes on from it.

    :param module: import path of a class or function ``(numbers, texts, outputs, **params) -> torch.nn.Module`` whose
        ``forward(numbers, texts)`` takes float32 of shape (n, ``numbers``) and int64 of shape (n, ``len(texts)``), and gives
        logits or values of shape (n, ``outputs``). ``texts`` is how many different values each text has. Unless given, a
        network for tables with ``params`` ``hidden`` (widths of its layers) and ``dropout``
    :param params: its keyword arguments
    :param dataset: import path of a class or function ``(rows, features, label, **dataset_params)`` that makes a
        ``torch.utils.data.Dataset`` with a length, whose items are pairs of input and label. ``rows`` is a pyarrow.Table of
        one row group, with labels as class indices. Where ``label`` is ``None`` there is no label to give. The module is
        then made of ``params`` alone, and once stored its input is float32 of shape (n, ``len(features)``): what the
        Dataset makes of a row's values belongs into ``forward``
    :param dataset_params: its keyword arguments
    :param epochs: the most passes over the rows
    :param batch_size: rows a batch, over all processes
    :param learning_rate: of AdamW
    :param weight_decay: of AdamW
    :param precision: ``bf16`` and ``16`` compute in mixed precision
    :param accumulate: batches whose gradients make one step
    :param validation: share of the training part that early stopping looks at
    :param patience: epochs without a lower validation loss before it stops; ``None`` for never
    :param checkpoint_every: steps between two checkpoints
    :param device: ``auto`` is a GPU if there is one
    :param processes: how many processes train together on each node (torchrun, DistributedDataParallel); one a GPU
        unless given
    :param name: what the candidate is called in MLflow
    """

    def __init__(
        self,
        module: str | None = None,
        params: dict[str, Any] | None = None,
        *,
        dataset: str | None = None,
        dataset_params: dict[str, Any] | None = None,
        epochs: int = 20,
        batch_size: int = 1024,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        precision: Literal["32", "bf16", "16"] = "32",
        accumulate: int = 1,
        validation: float = 0.1,
        patience: int | None = 3,
        checkpoint_every: int = 500,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        processes: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            kind="torch",
            module=module,
            params=params or {},
            dataset=dataset,
            dataset_params=dataset_params or {},
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            precision=precision,
            accumulate=accumulate,
            validation=validation,
            patience=patience,
            checkpoint_every=checkpoint_every,
            device=device,
            processes=processes,
            name=name,
        )


class Float(dict[str, Any]):
    """A number between ``low`` and ``high``, for the space of a :class:`Search`; both may be chosen.

    :param log: by its logarithm, for what counts in orders of magnitude
    :param step: only ``low``, ``low + step``, ...
    """

    def __init__(self, low: float, high: float, *, log: bool = False, step: float | None = None) -> None:
        super().__init__(kind="float", low=low, high=high, log=log, step=step)


class Int(dict[str, Any]):
    """A whole number between ``low`` and ``high``, for the space of a :class:`Search`; both may be chosen.

    :param log: by its logarithm, for what counts in orders of magnitude
    :param step: only ``low``, ``low + step``, ...
    """

    def __init__(self, low: int, high: int, *, log: bool = False, step: int = 1) -> None:
        super().__init__(kind="int", low=low, high=high, log=log, step=step)


class Categorical(dict[str, Any]):
    """One of ``choices``, each any JSON, for the space of a :class:`Search`."""

    def __init__(self, choices: Sequence[Any]) -> None:
        super().__init__(kind="categorical", choices=list(choices))


class Search(dict[str, Any]):
    """Tries parameters of a trainer (Optuna: a tree-structured Parzen estimator), and is the trainer with the best ones.

    It measures on the part ``train`` alone, and a retry goes on where it was. ``TrainOperator(trainer=Search(...))``
    searches and trains in one task; several tasks share a search by :class:`~airflow_mlops.operators.SearchOperator`.

    :param trainer: a :class:`SklearnTrainer`, a :class:`FunctionTrainer` or a :class:`TorchTrainer`
    :param space: a :class:`Float`, an :class:`Int` or a :class:`Categorical` for each parameter. Names are those of the
        trainer's ``params``; for a network also ``epochs``, ``batch_size``, ``learning_rate``, ``weight_decay``,
        ``precision``, ``accumulate`` and ``patience``
    :param trials: how many choices are tried, over all workers
    :param metric: what is compared: ``roc_auc`` (binary), ``roc_auc_ovr`` (multiclass) or ``rmse`` (regression) unless
        given
    :param greater_is_better: the direction of a metric of your own, which is named by import path:
        ``metric="package.module:function"``
    :param folds: of the cross-validation: made as the training set was split: in order of time, with groups kept together, or else
        stratified.
        A network is measured on the rows that it keeps for validation
    :param pruner: ``median`` ends a trial that does worse than the median of the others at the same fold, or epoch of a
        network; ``None`` ends none
    :param storage_conn_id: the Airflow connection of a database that holds the study, needed where the artifact store
        is no file system
    :raises SpecError: it cannot be searched as it is configured
    """

    def __init__(
        self,
        trainer: dict[str, Any],
        space: dict[str, dict[str, Any]],
        *,
        trials: int,
        metric: str | None = None,
        greater_is_better: bool | None = None,
        folds: int = 5,
        pruner: Literal["median"] | None = "median",
        storage_conn_id: str | None = None,
    ) -> None:
        super().__init__(
            kind="search",
            trainer=trainer,
            space=space,
            trials=trials,
            metric=metric,
            greater_is_better=greater_is_better,
            folds=folds,
            pruner=pruner,
            storage_conn_id=storage_conn_id,
        )
        # A mapped operator is not made while a DAG is parsed, so it cannot look.
        if "{{" not in str(self):
            from airflow_mlops.models.trainers.spec import check_trainer

            check_trainer(self, "The search")


__all__ = ["Categorical", "Float", "FunctionTrainer", "Int", "Search", "SklearnTrainer", "TorchTrainer"]
