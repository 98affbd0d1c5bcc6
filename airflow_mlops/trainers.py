"""The trainers that ``TrainOperator(trainer=...)`` accepts. Importing this module imports no machine-learning library.

A trainer is a dict of plain JSON values. Tasks can therefore be mapped over trainers, and the Airflow UI shows their
fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

Serialization = Literal["skops", "cloudpickle"]


class SklearnTrainer(dict[str, Any]):
    """A trainer that fits a scikit-learn estimator. The preprocessing is fitted as well and stored in the same model.

    With the extra ``interpret``, the estimator can also be InterpretML's
    ``interpret.glassbox.ExplainableBoostingClassifier`` or ``ExplainableBoostingRegressor``. These estimators are
    fitted without preprocessing, and the importances and shape functions of their terms are logged to MLflow.

    :param estimator: import path of the estimator's class, such as ``sklearn.linear_model.LogisticRegression``
    :param params: keyword arguments of the estimator's class
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``. By
        default, nulls in numeric features are replaced by the median if the estimator does not accept NaN, and numeric
        features are standardised if the estimator is not based on trees. Text features become category codes for
        tree-based estimators, and otherwise one-hot columns of their 100 most frequent values
    :param max_rows: maximum number of rows to which the model is fitted. If there are more training rows, a uniform
        sample of this size is drawn by the seed, and only the labels of the other rows are kept in memory. The metrics
        are measured on all held-out rows. By default, all rows are used
    :param batch_rows: number of rows of a batch. If it is set, the rows are streamed, and each batch is passed to the
        estimator's ``partial_fit``. Nulls in numeric features are then replaced by the mean instead of the median, and a
        transformer of ``preprocessing`` needs ``partial_fit``, too. By default, ``fit`` is called with all rows
    :param epochs: number of passes over the training rows with ``batch_rows``. A retry continues after the last complete
        one
    :param name: name of the candidate in MLflow; by default the name of the class
    :param trusted_types: types outside of scikit-learn, NumPy, SciPy and InterpretML's glass-box models that the stored
        model may contain
    :param serialization: ``skops``, or ``cloudpickle`` for models that skops cannot store. Loading a cloudpickle file
        can run code
    """

    def __init__(
        self,
        estimator: str,
        params: dict[str, Any] | None = None,
        *,
        preprocessing: str | None = None,
        max_rows: int | None = None,
        batch_rows: int | None = None,
        epochs: int = 1,
        name: str | None = None,
        trusted_types: Sequence[str] = (),
        serialization: Serialization = "skops",
    ) -> None:
        super().__init__(
            kind="sklearn",
            estimator=estimator,
            params=params or {},
            preprocessing=preprocessing,
            max_rows=max_rows,
            batch_rows=batch_rows,
            epochs=epochs,
            name=name,
            trusted_types=list(trusted_types),
            serialization=serialization,
        )


class FunctionTrainer(dict[str, Any]):
    """A trainer that calls a user-defined function: ``function(X, y, params=params, seed=seed)``.

    ``X`` is a pandas DataFrame of the features (float64 and text), and ``y`` is a NumPy array of the labels. The
    function returns one of these: a fitted estimator with scikit-learn's interface, which accepts such a DataFrame and
    can be exported to ONNX; a fitted Keras model of numeric features (extra ``keras``); a PyTorch network that returns
    logits or values, such as a LightningModule; a ``TextClassificationPipeline`` of Hugging Face, for one text feature
    (extra ``huggingface``); or an ONNX model (a path, bytes or a ``ModelProto``). If the rows have weights, the function
    also receives the keyword argument ``sample_weight``, an array of shape (n,). Weights come from
    :class:`~airflow_mlops.operators.Decay` or from ``sample_weight`` or ``class_weight`` of TrainOperator.

    :param function: import path of the function, such as ``my_package.my_module:train``; the module must be importable
        where the step runs, for example a module in the folder of the DAG files
    :param params: any JSON object, which is passed to the function unchanged
    :param name: name of the candidate in MLflow; by default the name of the function
    :param trusted_types: types outside of scikit-learn, NumPy, SciPy and InterpretML's glass-box models that the stored
        model may contain
    :param serialization: ``skops``, or ``cloudpickle`` for models that skops cannot store. Loading a cloudpickle file
        can run code
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


class NotebookTrainer(dict[str, Any]):
    """A trainer that runs a Jupyter notebook with papermill, and takes the model that the notebook logs to MLflow.

    It needs the extra ``notebook``. The notebook has a cell with the tag ``parameters``, which assigns defaults to
    ``train_path`` and to its own parameters. ``train_path`` is the path of a Parquet file with the features and the
    label of the training rows. The notebook can also assign ``contract`` (JSON text with task, label, features, classes
    and positive class) and ``seed``. It must assign ``validation_path`` if ``validation`` is set, and
    ``sample_weight``, the name of a column, if the rows have weights.

    :param notebook: path of the notebook (``.ipynb``). A relative path is searched like a module, for example in the
        folder of the DAG files
    :param params: values of parameters of the notebook; each can be any JSON value
    :param validation: fraction of the training rows that are written to ``validation_path`` instead of ``train_path``
    :param name: name of the candidate in MLflow; by default the name of the notebook
    :param trusted_types: types outside of scikit-learn, NumPy, SciPy and InterpretML's glass-box models that the logged
        model may contain
    :param serialization: ``cloudpickle`` to also accept a model that was logged in a format whose loading can run code
    """

    def __init__(
        self,
        notebook: str,
        params: dict[str, Any] | None = None,
        *,
        validation: float = 0.0,
        name: str | None = None,
        trusted_types: Sequence[str] = (),
        serialization: Serialization = "skops",
    ) -> None:
        super().__init__(
            kind="notebook",
            notebook=notebook,
            params=params or {},
            validation=validation,
            name=name,
            trusted_types=list(trusted_types),
            serialization=serialization,
        )


class ProjectTrainer(dict[str, Any]):
    """A trainer that runs an MLflow Project, and takes the model that the project logs to MLflow.

    The entry point declares the parameter ``train_path``, the path of a Parquet file with the features and the label of
    the training rows, and its own parameters. It can also declare ``contract`` (JSON text with task, label, features,
    classes and positive class) and ``seed``. It must declare ``validation_path`` if ``validation`` is set, and
    ``sample_weight``, the name of a column, if the rows have weights.

    :param project: path of the folder with the file ``MLproject``. A relative path is searched like a module, for
        example in the folder of the DAG files
    :param params: values of parameters of the entry point; values other than text are passed as JSON
    :param entry_point: name of the entry point
    :param env_manager: the environment in which MLflow runs the project: ``local``, which is the environment of the
        step, ``virtualenv``, ``uv`` or ``conda``
    :param validation: fraction of the training rows that are written to ``validation_path`` instead of ``train_path``
    :param name: name of the candidate in MLflow; by default the name of the folder
    :param trusted_types: types outside of scikit-learn, NumPy, SciPy and InterpretML's glass-box models that the logged
        model may contain
    :param serialization: ``cloudpickle`` to also accept a model that was logged in a format whose loading can run code
    """

    def __init__(
        self,
        project: str,
        params: dict[str, Any] | None = None,
        *,
        entry_point: str = "main",
        env_manager: Literal["local", "virtualenv", "uv", "conda"] = "local",
        validation: float = 0.0,
        name: str | None = None,
        trusted_types: Sequence[str] = (),
        serialization: Serialization = "skops",
    ) -> None:
        super().__init__(
            kind="project",
            project=project,
            params=params or {},
            entry_point=entry_point,
            env_manager=env_manager,
            validation=validation,
            name=name,
            trusted_types=list(trusted_types),
            serialization=serialization,
        )


class TorchTrainer(dict[str, Any]):
    """A trainer that fits a PyTorch network to batches streamed from the training set, on a GPU if one is available.

    A checkpoint is written to the artifact store every ``checkpoint_every`` optimizer steps. A retry of the task
    continues from the last checkpoint.

    :param module: import path of a class or function ``(numbers, texts, outputs, **params) -> torch.nn.Module``.
        ``numbers`` is the number of columns of the numeric input, ``texts`` is a list with the number of category codes
        of each text feature, and ``outputs`` is the number of output columns. The method ``forward`` of the module
        takes two tensors: the numeric input (float32, shape (n, ``numbers``)) and the category codes (int64, shape (n,
        ``len(texts)``)). It returns logits (classification) or values (regression) of shape (n, ``outputs``). By
        default, the module is a network of fully connected layers with the ``params`` ``hidden`` (widths of the layers)
        and ``dropout``
    :param params: keyword arguments of ``module``
    :param dataset: import path of a class or function ``(rows, features, label, **dataset_params)`` that returns a
        ``torch.utils.data.Dataset`` with a length. Each item is a pair ``(input, label)``, or only the input if
        ``label`` is ``None``. ``rows`` is a ``pyarrow.Table`` of one row group, in which class labels are replaced by
        class indices. If ``dataset`` is set, the module is called with ``params`` only. The stored model takes a
        float32 tensor of shape (n, ``len(features)``) and does not contain the Dataset. Put transformations that
        scoring needs into ``forward``
    :param dataset_params: keyword arguments of ``dataset``
    :param epochs: maximum number of passes over the training rows
    :param batch_size: number of rows in a batch, summed over all processes
    :param learning_rate: learning rate of AdamW
    :param weight_decay: weight decay of AdamW
    :param precision: ``32``, or ``bf16`` or ``16`` for mixed precision. On a GPU, ``32`` multiplies matrices in TF32,
        which has 10 bits of mantissa
    :param accumulate: number of batches whose gradients are accumulated for one optimizer step
    :param validation: fraction of the rows of split part ``train`` that is held out for early stopping, at least 0 and
        less than 1
    :param patience: number of epochs without a lower validation loss after which training stops; ``None`` disables
        early stopping
    :param checkpoint_every: number of optimizer steps between two checkpoints
    :param device: ``cpu``, ``cuda``, or ``auto``, which uses a GPU if one is available
    :param processes: number of training processes on each node (torchrun, DistributedDataParallel); by default one
        process for each GPU. Each process needs its own GPU, or ``device="cpu"``
    :param name: name of the candidate in MLflow; by default the name of the module
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


class _BoostingTrainer(dict[str, Any]):
    _kind: ClassVar[str]

    def __init__(
        self,
        params: dict[str, Any] | None = None,
        *,
        rounds: int = 1000,
        validation: float = 0.1,
        patience: int | None = 50,
        checkpoint_every: int = 100,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        warm_start: Literal["champion"] | None = None,
        group: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            kind=self._kind,
            params=params or {},
            rounds=rounds,
            validation=validation,
            patience=patience,
            checkpoint_every=checkpoint_every,
            device=device,
            warm_start=warm_start,
            group=group,
            name=name,
        )


class XGBoostTrainer(_BoostingTrainer):
    """A trainer that fits boosted trees with XGBoost to rows streamed from the training set.

    Text features are treated as categories and nulls as missing values, without preprocessing. A text that does not
    occur in the training rows is treated as a missing value. A retry of the task continues from the last checkpoint.

    :param params: parameters of ``xgboost.train``, such as ``max_depth`` and ``learning_rate``
    :param rounds: maximum number of rounds. Each round adds one tree, or one tree for each class
    :param validation: fraction of the rows of split part ``train`` that is held out for early stopping, at least 0 and
        less than 1. If the training set was split by group, whole groups are held out. Otherwise, the newest rows are
        held out if the training set has event times, and random rows if not. The split part ``test`` is not used
    :param patience: number of rounds without a lower validation loss after which training stops. ``None`` always trains
        ``rounds`` rounds. In both cases, the trees after the best round are dropped
    :param checkpoint_every: number of rounds between two checkpoints
    :param device: ``cpu``, ``cuda``, or ``auto``, which uses a GPU if there is one and the library is built for it
    :param warm_start: ``champion`` to continue the trees of the champion with ``rounds`` more rounds. By default, the
        training starts without trees. It also starts without trees if there is no champion, or if the champion has
        another ML task, label, objective, library or group column, or other features or classes
    :param group: for a ranking, column of the training set whose values name the groups, such as a query. The ML task
        is a regression whose label is the relevance, a whole number from 0 to 31. The objective is ``rank:ndcg``, or
        ``rank:pairwise`` if ``params`` contains it. Whole groups are held out for early stopping, which measures
        NDCG@10. All rows are held in memory
    :param name: name of the candidate in MLflow; by default the name of the library
    """

    _kind = "xgboost"


class LightGBMTrainer(_BoostingTrainer):
    """A trainer that fits boosted trees with LightGBM to rows streamed from the training set.

    Text features are treated as categories and nulls as missing values, without preprocessing. A text that does not
    occur in the training rows is treated as a missing value. A retry of the task continues from the last checkpoint.

    :param params: parameters of ``lightgbm.train``, such as ``num_leaves`` and ``learning_rate``
    :param rounds: maximum number of rounds. Each round adds one tree, or one tree for each class
    :param validation: fraction of the rows of split part ``train`` that is held out for early stopping, at least 0 and
        less than 1. If the training set was split by group, whole groups are held out. Otherwise, the newest rows are
        held out if the training set has event times, and random rows if not. The split part ``test`` is not used
    :param patience: number of rounds without a lower validation loss after which training stops. ``None`` always trains
        ``rounds`` rounds. In both cases, the trees after the best round are dropped
    :param checkpoint_every: number of rounds between two checkpoints
    :param device: ``cpu``, ``cuda``, or ``auto``, which uses a GPU if there is one and the library is built for it
    :param warm_start: ``champion`` to continue the trees of the champion with ``rounds`` more rounds. By default, the
        training starts without trees. It also starts without trees if there is no champion, or if the champion has
        another ML task, label, objective, library or group column, or other features or classes
    :param group: for a ranking, column of the training set whose values name the groups, such as a query. The ML task
        is a regression whose label is the relevance, a whole number from 0 to 31. The objective is ``lambdarank``.
        Whole groups are held out for early stopping, which measures NDCG@10. All rows are held in memory
    :param name: name of the candidate in MLflow; by default the name of the library
    """

    _kind = "lightgbm"


class CatBoostTrainer(_BoostingTrainer):
    """A trainer that fits boosted trees with CatBoost.

    Text features are treated as categories and nulls in numeric features as missing values, without preprocessing. A
    null in a text feature is a category, and a text that does not occur in the training rows is a category without
    statistics. CatBoost holds the rows in memory. On a CPU and without ``warm_start``, a retry of the task continues
    from the last checkpoint. Otherwise, a retry trains from the beginning.

    :param params: parameters of ``catboost.CatBoost``, such as ``depth`` and ``learning_rate``
    :param rounds: maximum number of rounds. Each round adds one tree, or one tree for each class
    :param validation: fraction of the rows of split part ``train`` that is held out for early stopping, at least 0 and
        less than 1. If the training set was split by group, whole groups are held out. Otherwise, the newest rows are
        held out if the training set has event times, and random rows if not. The split part ``test`` is not used
    :param patience: number of rounds without a lower validation loss after which training stops. ``None`` always trains
        ``rounds`` rounds. In both cases, the trees after the best round are dropped
    :param checkpoint_every: number of rounds between two checkpoints
    :param device: ``cpu``, ``cuda``, or ``auto``, which uses a GPU if there is one and the library is built for it
    :param warm_start: ``champion`` to continue the trees of the champion with ``rounds`` more rounds. By default, the
        training starts without trees. It also starts without trees if there is no champion, or if the champion has
        another ML task, label, objective, library or group column, or other features or classes
    :param group: for a ranking, column of the training set whose values name the groups, such as a query. The ML task
        is a regression whose label is the relevance, a whole number from 0 to 31. The objective is ``YetiRank``, or
        ``QueryRMSE`` if ``params`` contains it. Whole groups are held out for early stopping, which measures NDCG@10.
        All rows are held in memory
    :param name: name of the candidate in MLflow; by default the name of the library
    """

    _kind = "catboost"


class Float(dict[str, Any]):
    """The range of a floating-point parameter for a :class:`Search`. ``low`` and ``high`` are included.

    :param low: the smallest value
    :param high: the largest value
    :param log: whether to sample the logarithm uniformly, for parameters that span orders of magnitude
    :param step: distance between the sampled values ``low``, ``low + step``, ...; by default all values are possible
    """

    def __init__(self, low: float, high: float, *, log: bool = False, step: float | None = None) -> None:
        super().__init__(kind="float", low=low, high=high, log=log, step=step)


class Int(dict[str, Any]):
    """The range of an integer parameter for a :class:`Search`. ``low`` and ``high`` are included.

    :param low: the smallest value
    :param high: the largest value
    :param log: whether to sample the logarithm uniformly, for parameters that span orders of magnitude
    :param step: distance between the sampled values ``low``, ``low + step``, ...
    """

    def __init__(self, low: int, high: int, *, log: bool = False, step: int = 1) -> None:
        super().__init__(kind="int", low=low, high=high, log=log, step=step)


class Categorical(dict[str, Any]):
    """The choices of a categorical parameter for a :class:`Search`.

    :param choices: the possible values; each can be any JSON value
    """

    def __init__(self, choices: Sequence[Any]) -> None:
        super().__init__(kind="categorical", choices=list(choices))


class Search(dict[str, Any]):
    """A search for the best parameters of a trainer with Optuna's tree-structured Parzen estimator (TPE).

    The search uses only the split part ``train`` of the training set. A retry of the task continues the search.
    ``TrainOperator(trainer=Search(...))`` searches and then trains in one task. With
    :class:`~airflow_mlops.operators.SearchOperator`, several tasks can share one search.

    :param trainer: any other trainer of this module
    :param space: a :class:`Float`, :class:`Int` or :class:`Categorical` for each searched parameter, by name. A name is
        a key of the trainer's ``params``. For a TorchTrainer, a name can also be ``epochs``, ``batch_size``,
        ``learning_rate``, ``weight_decay``, ``precision``, ``accumulate`` or ``patience``, and for boosted trees
        ``rounds`` or ``patience``
    :param trials: number of trials, summed over all workers
    :param metric: the metric to optimize; by default ``roc_auc`` (binary), ``roc_auc_ovr`` (multiclass) or ``rmse``
        (regression), or for forecasts ``mase``, and for objectives for counts or positive amounts their deviance. Models
        of a quantile and rankers have no default. Other values are the import path of a custom metric, ``package.module:function``; an expected
        cost, ``{"metric": "expected_cost", "false_positive": 1, "false_negative": 20}``; and a Tweedie deviance,
        ``{"metric": "tweedie_deviance", "power": 1.5}``
    :param greater_is_better: whether greater values of a custom metric are better; required for a custom metric
    :param folds: number of folds of the cross-validation. The folds are formed by the same method as the split parts of
        the training set (by time, by group, or stratified). Networks and boosted trees are measured on their
        validation rows instead
    :param pruner: ``median`` stops a trial that is worse than the median of the other trials at the same fold, epoch or
        round. ``None`` stops no trial
    :param storage_conn_id: Airflow connection to the database that stores the Optuna study; required if the artifact
        store is not a file system
    :raises SpecError: the search is invalid
    """

    def __init__(
        self,
        trainer: dict[str, Any],
        space: dict[str, dict[str, Any]],
        *,
        trials: int,
        metric: str | Mapping[str, Any] | None = None,
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


__all__ = [
    "CatBoostTrainer",
    "Categorical",
    "Float",
    "FunctionTrainer",
    "Int",
    "LightGBMTrainer",
    "NotebookTrainer",
    "ProjectTrainer",
    "Search",
    "SklearnTrainer",
    "TorchTrainer",
    "XGBoostTrainer",
]
