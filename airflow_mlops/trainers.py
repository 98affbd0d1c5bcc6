"""The trainers that ``TrainOperator(trainer=...)`` accepts. Importing this module imports no machine-learning library.

Trainers are dicts of plain JSON, so tasks can be mapped over them and Airflow's pages show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Serialization = Literal["skops", "cloudpickle"]


class SklearnTrainer(dict[str, Any]):
    """Trains a scikit-learn estimator. The preprocessing is fitted with the estimator and is part of the model.

    InterpretML's ``interpret.glassbox.ExplainableBoostingClassifier`` and ``ExplainableBoostingRegressor`` (extra
    ``interpret``) are fitted without preprocessing. Their feature importances and shape functions are logged to MLflow.

    :param estimator: import path of the estimator's class, such as ``sklearn.linear_model.LogisticRegression``
    :param params: keyword arguments of the class
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``. By
        default, nulls in numeric features are replaced by the median if the estimator does not accept NaN, and numeric
        features are standardised if the estimator is not based on trees. Text features become category codes for
        tree-based estimators, and otherwise one-hot columns of their 100 most frequent values
    :param name: name of the candidate in MLflow; by default the name of the class
    :param trusted_types: types outside of scikit-learn, NumPy, SciPy and InterpretML's glass-box models that the stored
        model may contain
    :param serialization: ``skops``, or ``cloudpickle`` for models that skops cannot store; loading a cloudpickle file can
        run code
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
    """Trains a model with a user-defined function, which is called as ``function(X, y, params=params, seed=seed)``.

    ``X`` is a pandas DataFrame of the features (float64 and text), ``y`` a NumPy array of the labels. The function
    returns a fitted estimator with scikit-learn's interface that accepts such a DataFrame and can be exported to ONNX.

    :param function: import path of the function, such as ``my_package.my_module:train``; the module must be importable
        where the step runs, for example a module in the folder of the DAG files
    :param params: any JSON object, which is passed to the function unchanged
    :param name: name of the candidate in MLflow; by default the name of the function
    :param trusted_types: types outside of scikit-learn, NumPy, SciPy and InterpretML's glass-box models that the stored
        model may contain
    :param serialization: ``skops``, or ``cloudpickle`` for models that skops cannot store; loading a cloudpickle file can
        run code
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
    """Trains a neural network on batches that are streamed from the training set, on a GPU if one is available.

    Every ``checkpoint_every`` steps a checkpoint is written to the artifact store. A retry continues from the last
    checkpoint.

    :param module: import path of a class or function ``(numbers, texts, outputs, **params) -> torch.nn.Module``. Its
        ``forward(numbers, texts)`` takes float32 of shape (n, ``numbers``) and int64 category codes of shape
        (n, ``len(texts)``), and returns logits or values of shape (n, ``outputs``). ``texts`` contains the number of
        category codes of each text feature. By default, a network of fully connected layers is trained, which accepts the
        ``params`` ``hidden`` (widths of the layers) and ``dropout``
    :param params: keyword arguments of ``module``
    :param dataset: import path of a class or function ``(rows, features, label, **dataset_params)`` that returns a
        ``torch.utils.data.Dataset`` with a length and pairs of input and label as items. ``rows`` is a ``pyarrow.Table``
        of one row group, in which labels are class indices. If ``label`` is ``None``, the items are inputs without labels.
        With ``dataset``, the module is called with ``params`` only. The stored model takes float32 of shape
        (n, ``len(features)``), so transformations that scoring needs belong in ``forward``, not in the Dataset
    :param dataset_params: keyword arguments of ``dataset``
    :param epochs: maximum number of passes over the training rows
    :param batch_size: number of rows in a batch, over all processes
    :param learning_rate: learning rate of AdamW
    :param weight_decay: weight decay of AdamW
    :param precision: ``32``, or ``bf16`` or ``16`` for mixed precision
    :param accumulate: number of batches whose gradients are accumulated for one optimizer step
    :param validation: fraction of the split part ``train`` that is held out for early stopping, from 0 to 1
    :param patience: number of epochs without a lower validation loss after which training stops; ``None`` disables early
        stopping
    :param checkpoint_every: number of optimizer steps between two checkpoints
    :param device: ``cpu``, ``cuda``, or ``auto``, which uses a GPU if one is available
    :param processes: number of processes that train together on each node (torchrun, DistributedDataParallel); by default
        one for each GPU
    :param name: name of the candidate in MLflow
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
    """A floating-point parameter in the space of a :class:`Search`, from ``low`` to ``high``, both included.

    :param low: the smallest value
    :param high: the largest value
    :param log: whether to sample the logarithm uniformly, for parameters that span orders of magnitude
    :param step: distance between the sampled values ``low``, ``low + step``, ...; by default all values are possible
    """

    def __init__(self, low: float, high: float, *, log: bool = False, step: float | None = None) -> None:
        super().__init__(kind="float", low=low, high=high, log=log, step=step)


class Int(dict[str, Any]):
    """An integer parameter in the space of a :class:`Search`, from ``low`` to ``high``, both included.

    :param low: the smallest value
    :param high: the largest value
    :param log: whether to sample the logarithm uniformly, for parameters that span orders of magnitude
    :param step: distance between the sampled values ``low``, ``low + step``, ...
    """

    def __init__(self, low: int, high: int, *, log: bool = False, step: int = 1) -> None:
        super().__init__(kind="int", low=low, high=high, log=log, step=step)


class Categorical(dict[str, Any]):
    """A categorical parameter in the space of a :class:`Search`.

    :param choices: the possible values; each can be any JSON value
    """

    def __init__(self, choices: Sequence[Any]) -> None:
        super().__init__(kind="categorical", choices=list(choices))


class Search(dict[str, Any]):
    """Searches for the best parameters of a trainer with Optuna's tree-structured Parzen estimator.

    The search uses only the split part ``train`` of the training set. A retry continues the search.
    ``TrainOperator(trainer=Search(...))`` searches and trains in one task. Several tasks can share a search with
    :class:`~airflow_mlops.operators.SearchOperator`.

    :param trainer: a :class:`SklearnTrainer`, a :class:`FunctionTrainer` or a :class:`TorchTrainer`
    :param space: a :class:`Float`, :class:`Int` or :class:`Categorical` for each searched parameter, by name. A name is a
        key of the trainer's ``params``. With a TorchTrainer, it can also be ``epochs``, ``batch_size``,
        ``learning_rate``, ``weight_decay``, ``precision``, ``accumulate`` or ``patience``
    :param trials: total number of trials over all workers
    :param metric: the metric to optimize; by default ``roc_auc`` (binary), ``roc_auc_ovr`` (multiclass) or ``rmse``
        (regression). A custom metric is given by its import path, ``package.module:function``
    :param greater_is_better: whether greater values of a custom metric are better; required for a custom metric
    :param folds: number of folds of the cross-validation. The rows are divided into folds by the same method as the split
        of the training set (by time, by group, or stratified). A TorchTrainer is measured on its validation rows instead
    :param pruner: ``median`` stops a trial that is worse than the median of the other trials at the same fold or epoch;
        ``None`` stops no trial
    :param storage_conn_id: Airflow connection to the database that stores the Optuna study; required if the artifact store
        is not a file system
    :raises SpecError: the search is invalid
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
        # Checked here, because a mapped operator is not created while the DAG is parsed.
        if "{{" not in str(self):
            from airflow_mlops.models.trainers.spec import check_trainer

            check_trainer(self, "The search")


__all__ = ["Categorical", "Float", "FunctionTrainer", "Int", "Search", "SklearnTrainer", "TorchTrainer"]
