"""Train boosted trees with XGBoost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.onnx.boosting import BELOW, IN, Ensemble, Link, Tree
from airflow_mlops.models.trainers.boosting.encoding import Encoding
from airflow_mlops.models.trainers.boosting.library import RANKING, Job, choose, gpus, load, objectives, threads
from airflow_mlops.models.trainers.boosting.rows import Rows
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE, NULLS = "booster.ubj", False
_VALUES = {
    **dict.fromkeys(
        (
            "reg:squarederror",
            "reg:absoluteerror",
            "reg:pseudohubererror",
            "reg:squaredlogerror",
            "reg:quantileerror",
        ),
        "identity",
    ),
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), "log"),
}
_OBJECTIVES: dict[str, dict[str, Any]] = {
    "binary": {"binary:logistic": "logit"},
    "multiclass": {"multi:softprob": "softmax"},
    "regression": _VALUES,
    RANKING: dict.fromkeys(("rank:ndcg", "rank:pairwise"), "identity"),
}


def has_gpu() -> bool:
    """Return whether XGBoost is built for a GPU and finds one."""
    return bool(load("xgboost").build_info().get("USE_CUDA")) and gpus() > 0


def check(spec: BoostingTrainerSpec, task: Task, features: Sequence[Any]) -> None:
    """Check the parameters, as described in :class:`~airflow_mlops.models.trainers.boosting.library.Library`."""
    found = objectives(_OBJECTIVES, task, spec)
    choose(found, spec.params, "objective", next(iter(found)))
    for name, allowed in {"booster": "gbtree", "multi_strategy": "one_output_per_tree", "tree_method": "hist"}.items():
        if spec.params.get(name, allowed) != allowed:
            raise SpecError(
                f"params has {name}={spec.params[name]!r}, which cannot be streamed or exported to ONNX. Remove it."
            )


def train(job: Job) -> XGBoostModel:
    """Train a model, from the checkpoint or from ``job.start`` if there is one.

    :param job: the rows and the settings of the training
    :raises TrainingError: XGBoost refuses the parameters or the rows
    """
    xgboost = load("xgboost")
    known = objectives(_OBJECTIVES, job.task, job.spec)
    objective, link = choose(known, job.spec.params, "objective", next(iter(known)))
    params = {
        **threads(job.spec.params, "nthread", "n_jobs"),
        **job.spec.params,
        "objective": objective,
        **({"num_class": job.classes} if job.task == "multiclass" else {}),
        "tree_method": "hist",
        "device": "cuda" if job.gpu else "cpu",
        "seed": job.seed,
        # A resumed training then draws the same random numbers as an uninterrupted training.
        "seed_per_iteration": True,
        "disable_default_eval_metric": job.held_out is None,
        # By default, rank:pairwise measures MAP, which needs labels of 0 and 1.
        **({"eval_metric": "ndcg@10"} if job.rows.groups is not None else {}),
    }
    progress = job.progress
    saved = progress.resume()
    given = saved if saved is not None else job.start
    try:
        bins = {"max_bin": int(params.get("max_bin", 256))}
        rows = xgboost.QuantileDMatrix(_iterator(xgboost, job.rows), enable_categorical=True, **bins)
        evals = []
        if job.held_out is not None:
            held_out = xgboost.QuantileDMatrix(
                _iterator(xgboost, job.held_out), ref=rows, enable_categorical=True, **bins
            )
            evals = [(held_out, "validation")]
        for part in (job.rows, job.held_out):
            if part is not None:
                part.drop_cache()
        booster = xgboost.Booster(params, cache=[rows, *(item for item, _ in evals)])
        if given is not None:
            booster.load_model(bytearray(given))
            booster.set_param(params)
        first = booster.num_boosted_rounds() - progress.state.round
        with progress.following():
            while not progress.is_finished:
                place = first + progress.state.round
                booster.update(rows, place)
                loss = float(booster.eval_set(evals, place).rpartition(":")[2]) if evals else None
                if loss is not None and job.rows.groups is not None:
                    # NDCG lies between 0 and 1, and higher values are better, so it is converted to a loss.
                    loss = 1 - loss
                if progress.after(loss, lambda: bytes(booster.save_raw("ubj"))):
                    break
    except xgboost.core.XGBoostError as error:
        raise TrainingError(f"XGBoost cannot train with params={job.spec.params}: {_first_line(error)}") from error
    booster = booster[: first + progress.state.best_round]
    return XGBoostModel(xgboost, booster, link, job.rows.encoding)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "rror" in line or "Check failed" in line), lines[0] if lines else "")[:300]


def _types(encoding: Encoding) -> list[str]:
    return ["c" if feature.kind == "string" else "q" for feature in encoding.features]


def _iterator(xgboost: Any, rows: Rows) -> Any:
    types = _types(rows.encoding)

    class Iterator(xgboost.DataIter):  # type: ignore[misc]
        def __init__(self) -> None:
            self._at = 0
            super().__init__()

        def reset(self) -> None:
            self._at = 0

        def next(self, input_data: Any) -> bool:
            if self._at == len(rows.chunks):
                return False
            chunk = rows.chunks[self._at]
            start, end = rows.spans[chunk]
            others: dict[str, NDArray[Any]] = {} if rows.weights is None else {"weight": rows.weights[start:end]}
            if rows.groups is not None:
                others["qid"] = rows.groups[start:end]
            input_data(data=rows.matrix(chunk), label=rows.labels[start:end], feature_types=types, **others)
            self._at += 1
            return True

    return Iterator()


class XGBoostModel:
    """A trained XGBoost booster."""

    def __init__(self, xgboost: Any, booster: Any, link: Any, encoding: Encoding) -> None:
        self._xgboost, self._booster, self._link, self._encoding = xgboost, booster, link, encoding
        self.rounds = booster.num_boosted_rounds()

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        rows = self._xgboost.DMatrix(matrix, feature_types=_types(self._encoding), enable_categorical=True)
        found = np.asarray(self._booster.predict(rows), dtype=np.float64)
        if self._link == "logit":
            return np.column_stack([1 - found, found])
        return found.reshape(len(matrix), -1)

    def to_bytes(self) -> bytes:
        return bytes(self._booster.save_raw("ubj"))

    def ensemble(self, encoding: Encoding) -> Ensemble:
        learner = json.loads(bytes(self._booster.save_raw("json")))["learner"]
        model = learner["gradient_booster"]["model"]
        trees = [_tree(item, target) for item, target in zip(model["trees"], model["tree_info"], strict=True)]
        outputs = max(1, int(learner["learner_model_param"]["num_class"]))
        given = np.atleast_1d(np.asarray(json.loads(learner["learner_model_param"]["base_score"]), dtype=np.float64))
        if self._link == "logit":
            given = np.log(given / (1 - given))
        elif self._link == "log":
            given = np.log(given)
        return Ensemble(trees, np.broadcast_to(given, (outputs,)).copy(), self._link)


def contributions(
    content: bytes, encoding: Encoding
) -> tuple[Link, Callable[[NDArray[np.float32]], NDArray[np.float64]]]:
    """Read a stored model, as described in :class:`~airflow_mlops.models.trainers.boosting.library.Library`."""
    xgboost = load("xgboost")
    booster = xgboost.Booster(threads({}, "nthread"))
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        raise ValueError(f"XGBoost cannot read {FILE} ({_first_line(error)})") from error
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    (link,) = {links[objective] for links in _OBJECTIVES.values() if objective in links}

    def found(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        rows = xgboost.DMatrix(matrix, feature_types=_types(encoding), enable_categorical=True)
        values = booster.predict(rows, pred_contribs=True)
        return np.asarray(values, dtype=np.float64).reshape(len(matrix), -1, len(encoding.features) + 1)

    return link, found


def _tree(item: dict[str, Any], target: int) -> Tree:
    left, right = np.asarray(item["left_children"], np.int64), np.asarray(item["right_children"], np.int64)
    leaf = left < 0
    values = np.asarray(item["split_conditions"], np.float64)
    default_left = np.asarray(item["default_left"], bool)
    by_category = np.asarray(item["split_type"], bool) & ~leaf
    members = {
        int(node): np.asarray(item["categories"][start : start + size], np.int64)
        for node, start, size in zip(
            item["categories_nodes"], item["categories_segments"], item["categories_sizes"], strict=True
        )
    }
    # XGBoost sends the categories of a node to the right.
    return Tree(
        feature=np.where(leaf, -1, np.asarray(item["split_indices"], np.int64)),
        mode=np.where(by_category, IN, BELOW),
        threshold=values.astype(np.float32),
        true=np.where(by_category, right, left),
        false=np.where(by_category, left, right),
        missing_true=np.where(by_category, ~default_left, default_left),
        leaves=np.where(leaf, values, 0.0).reshape(-1, 1),
        targets=(target,),
        members=members,
    )
