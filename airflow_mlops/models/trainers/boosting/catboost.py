"""Train boosted trees with CatBoost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError, TrainingError, one_line
from airflow_mlops.core.temporary import disk_full, is_full, temporary_folder
from airflow_mlops.models.onnx.boosting import ABOVE, IN, CategoryNumbers, Ensemble, Link, Tree
from airflow_mlops.models.trainers.boosting.encoding import Encoding
from airflow_mlops.models.trainers.boosting.library import RANKING, Job, choose, gpus, load, objectives, threads
from airflow_mlops.models.trainers.boosting.progress import Progress
from airflow_mlops.models.trainers.boosting.rows import Rows
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A null of a text feature is a category, because CatBoost has no missing categories.
FILE, NULLS = "booster.cbm", True
_OBJECTIVES: dict[str, dict[str, Any]] = {
    "binary": {"Logloss": "logit", "CrossEntropy": "logit"},
    "multiclass": {"MultiClass": "softmax"},
    "regression": {
        **dict.fromkeys(("RMSE", "MAE", "Quantile", "MAPE", "Huber", "LogCosh", "Expectile"), "identity"),
        **dict.fromkeys(("Poisson", "Tweedie"), "log"),
    },
    RANKING: dict.fromkeys(
        (
            "YetiRank",
            "QueryRMSE",
        ),
        "identity",
    ),
}
# Seconds between two snapshots, which CatBoost writes to the local disk.
SNAPSHOT_SECONDS = 10
# The factor in CatBoost's hash of a combination of features (this package uses only single features), and the largest
# value of a 64-bit hash.
_HASH, _WORD = 0x4906BA494954CB65, 2**64 - 1


def has_gpu() -> bool:
    """Return whether CatBoost is built for a GPU and finds one."""
    return gpus() > 0 and int(load("catboost").utils.get_gpu_device_count()) > 0


def check(spec: BoostingTrainerSpec, task: Task, features: Sequence[Any]) -> None:
    """Check the parameters, as described in :class:`~airflow_mlops.models.trainers.boosting.library.Library`."""
    found = objectives(_OBJECTIVES, task, spec)
    choose(found, spec.params, "loss_function", next(iter(found)))
    params, texts = spec.params, any(feature.kind == "string" for feature in features)
    if params.get("grow_policy", "SymmetricTree") != "SymmetricTree":
        raise SpecError(
            f"params has grow_policy={params['grow_policy']!r}, but only symmetric trees are exported to ONNX."
        )
    if int(params.get("max_ctr_complexity", 1)) > 1:
        raise SpecError(
            f"params has max_ctr_complexity={params['max_ctr_complexity']}, but combinations of categories cannot be exported "
            "to ONNX. Remove it."
        )
    if spec.warm_start is not None and texts:
        raise SpecError(
            "CatBoost cannot continue a model with categories. Remove `warm_start`, or the text features from the training set."
        )


def train(job: Job) -> CatBoostModel:
    """Train a model, from the checkpoint or from ``job.start`` if there is one.

    Checkpoints are written only on a CPU and without ``job.start``.

    :param job: the rows and the settings of the training
    :raises TrainingError: CatBoost refuses the parameters or the rows
    :raises SpillError: the disk is full
    """
    catboost = load("catboost")
    known = objectives(_OBJECTIVES, job.task, job.spec)
    objective, link = choose(known, job.spec.params, "loss_function", next(iter(known)))
    progress, spec = job.progress, job.spec
    with temporary_folder("catboost") as folder:
        snapshot = folder / "snapshot"
        if (saved := progress.resume()) is not None:
            snapshot.write_bytes(saved)
        params = {
            # Statistics of combinations of categories cannot be exported.
            "max_ctr_complexity": 1,
            **threads(spec.params, "thread_count"),
            **spec.params,
            "loss_function": objective,
            **({"classes_count": job.classes} if job.task == "multiclass" else {}),
            "iterations": spec.rounds,
            "random_seed": job.seed,
            "task_type": "GPU" if job.gpu else "CPU",
            "train_dir": folder,
            **({"eval_metric": "NDCG:top=10;type=Exp"} if job.rows.groups is not None else {}),
            "verbose": False,
        }
        if job.gpu and job.held_out is not None and spec.patience is not None:
            params |= {"od_type": "Iter", "od_wait": max(1, spec.patience)}
        options: dict[str, Any] = {}
        if not job.gpu:
            # CatBoost supports callbacks only on CPUs.
            options["callbacks"] = [_Follower(progress, snapshot, job.held_out is not None)]
        if progress.run is not None and job.start is None:
            options |= {
                "save_snapshot": True,
                "snapshot_file": str(snapshot),
                "snapshot_interval": SNAPSHOT_SECONDS,
            }
        start = None
        if job.start is not None:
            start = catboost.CatBoost()
            start.load_model(blob=job.start)
        model = catboost.CatBoost(params)
        held_out = None if job.held_out is None else _pool(catboost, job.held_out)
        try:
            with progress.following():
                model.fit(
                    _pool(catboost, job.rows), eval_set=held_out, use_best_model=False, init_model=start, **options
                )
        except catboost.CatBoostError as error:
            # On a full disk, CatBoost reports only that it cannot read a file, because the file could not be written.
            if is_full(folder):
                raise disk_full(one_line(error, 200)) from error
            raise TrainingError(f"CatBoost cannot train with params={spec.params}: {one_line(error, 300)}") from error
        before = start.tree_count_ if start is not None else 0
        if job.gpu:
            losses: list[float] = []
            if held_out is not None:
                losses = _losses(model.get_evals_result()["validation"])
            progress.record(len(losses) or model.tree_count_ - before, losses)
        if held_out is not None:
            model.shrink(min(before + progress.state.best_round, model.tree_count_))
    return CatBoostModel(catboost, model, link, job.rows.encoding)


class _Follower:
    """CatBoost's callback, which reports each round to ``progress``."""

    def __init__(self, progress: Progress, snapshot: Path, measured: bool) -> None:
        self._progress, self._snapshot, self._measured = progress, snapshot, measured

    def after_iteration(self, info: Any) -> bool:
        state, losses = self._progress.state, []
        if self._measured:
            losses = _losses(info.metrics["validation"])
        # A resumed training continues at the round of CatBoost's snapshot, which can be earlier than that of the
        # checkpoint. ``after`` adds 1 to the round.
        state.round = info.iteration - 1
        state.losses = losses[: state.round]
        loss = losses[state.round] if losses else None
        return not self._progress.after(loss, self._content)

    def _content(self) -> bytes | None:
        return self._snapshot.read_bytes() if self._snapshot.exists() else None


def _losses(metrics: Mapping[str, Sequence[float]]) -> list[float]:
    ndcg = next((values for name, values in metrics.items() if name.startswith("NDCG")), None)
    if ndcg is not None:
        # The metric of rankings lies between 0 and 1, and higher values are better, so it is converted to a loss.
        return [1 - value for value in ndcg]
    (losses,) = (list(values) for values in metrics.values())
    return losses


def _pool(catboost: Any, rows: Rows) -> Any:
    found = _inputs(catboost, rows.all(), rows.encoding)
    rows.drop_cache()
    return catboost.Pool(found, rows.labels, weight=rows.weights, group_id=rows.groups)


def _inputs(catboost: Any, matrix: NDArray[np.float32], encoding: Encoding) -> Any:
    """Return the rows as CatBoost takes them: numbers, and the codes of categories as text."""
    texts = encoding.categorical
    numeric = [place for place in range(len(encoding.features)) if place not in texts]
    numbers = categories = None
    if numeric:
        numbers = np.ascontiguousarray(matrix[:, numeric])
    if texts:
        categories = np.empty((len(matrix), len(texts)), dtype=object)
        for column, place in enumerate(texts):
            size = len(encoding.vocabularies[encoding.features[place].name])
            # A text without a code gets the number after the last code.
            names = np.array([str(code).encode() for code in range(size + 1)], dtype=object)
            categories[:, column] = names[np.nan_to_num(matrix[:, place], nan=size).astype(np.int64)]
    return catboost.FeaturesData(num_feature_data=numbers, cat_feature_data=categories)


def contributions(
    content: bytes, encoding: Encoding
) -> tuple[Link, Callable[[NDArray[np.float32]], NDArray[np.float64]]]:
    """Read a stored model, as described in :class:`~airflow_mlops.models.trainers.boosting.library.Library`."""
    catboost = load("catboost")
    model = catboost.CatBoost()
    try:
        model.load_model(blob=content)
    except catboost.CatBoostError as error:
        raise ValueError(f"CatBoost cannot read {FILE} ({one_line(error, 200)})") from error
    objective = model.get_all_params()["loss_function"].partition(":")[0]
    (link,) = {links[objective] for links in _OBJECTIVES.values() if objective in links}
    # CatBoost's columns are the numeric features, followed by the text features and the base.
    texts = encoding.categorical
    columns = [place for place in range(len(encoding.features)) if place not in texts] + texts
    count = threads({}, "thread_count")

    def found(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        rows = catboost.Pool(_inputs(catboost, matrix, encoding))
        values = np.asarray(model.get_feature_importance(rows, type="ShapValues", **count), dtype=np.float64)
        values = values.reshape(len(matrix), -1, len(columns) + 1)
        ordered = np.empty_like(values)
        ordered[:, :, [*columns, len(columns)]] = values
        return ordered

    return link, found


class CatBoostModel:
    """A trained CatBoost model."""

    def __init__(self, catboost: Any, model: Any, link: Any, encoding: Encoding) -> None:
        self._catboost, self._model, self._link, self._encoding = catboost, model, link, encoding
        self.rounds = model.tree_count_

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        kind = {"identity": "RawFormulaVal", "log": "Exponent"}.get(self._link, "Probability")
        rows = self._catboost.Pool(_inputs(self._catboost, matrix, self._encoding))
        return np.asarray(self._model.predict(rows, prediction_type=kind), dtype=np.float64).reshape(len(matrix), -1)

    def to_bytes(self) -> bytes:
        with temporary_folder("catboost") as folder:
            file = folder / "model"
            self._model.save_model(str(file), format="cbm")
            return file.read_bytes()

    def ensemble(self, encoding: Encoding) -> Ensemble:
        return _Export(self._json(encoding), encoding).ensemble(self._link)

    def _json(self, encoding: Encoding) -> dict[str, Any]:
        """Return the model as JSON, with the hash of each category code."""
        size = max((len(item) for item in encoding.vocabularies.values()), default=0) + 1
        rows = np.zeros((size, len(encoding.features)), dtype=np.float32)
        for place in encoding.categorical:
            limit = len(encoding.vocabularies[encoding.features[place].name])
            rows[:, place] = np.minimum(np.arange(size), limit)
        with temporary_folder("catboost") as folder:
            file = folder / "model.json"
            pool = self._catboost.Pool(_inputs(self._catboost, rows, encoding), np.arange(size) % 2)
            self._model.save_model(str(file), format="json", pool=pool)
            found: dict[str, Any] = json.loads(file.read_bytes())
        return found


class _Export:
    """Reads the trees from CatBoost's JSON."""

    def __init__(self, content: dict[str, Any], encoding: Encoding) -> None:
        self._content, self._encoding = content, encoding
        info = content["features_info"]
        self._texts = encoding.categorical
        self._numeric = [place for place in range(len(encoding.features)) if place not in self._texts]
        # CatBoost numbers the splits in this order: by numbers, by one category, by the statistics of a category.
        floats = info.get("float_features") or []
        before = sum(len(item.get("borders") or ()) for item in floats)
        before += sum(len(item.get("values") or ()) for item in info.get("categorical_features") or [])
        self._ctrs = info.get("ctrs") or []
        self._ctr_of_split: dict[int, int] = {}
        for number, ctr in enumerate(self._ctrs):
            for _ in ctr["borders"]:
                self._ctr_of_split[before] = number
                before += 1
        self._missing = [item.get("nan_value_treatment") == "AsTrue" for item in floats]
        hashes = info.get("cat_features_hash") or []
        self._code_of_hash = {item["hash"]: int(item["value"]) for item in hashes}
        self._hash_of_code = {code: value for value, code in self._code_of_hash.items()}

    def ensemble(self, link: Any) -> Ensemble:
        scale, bias = self._content["scale_and_bias"]
        base = np.asarray(bias, dtype=np.float64)
        trees = [self._tree(item, scale, len(base)) for item in self._content["oblivious_trees"]]
        return Ensemble(trees, base, link, [self._numbers(ctr) for ctr in self._ctrs])

    def _tree(self, item: dict[str, Any], scale: float, outputs: int) -> Tree:
        splits = item.get("splits") or []
        inner, leaves = 2 ** len(splits) - 1, 2 ** len(splits)
        count = inner + leaves
        feature, mode = np.full(count, -1, np.int64), np.full(count, ABOVE)
        threshold, missing = np.zeros(count, np.float32), np.zeros(count, bool)
        true, false = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for level, split in enumerate(splits):
            paths = np.arange(2**level)
            nodes, children = 2**level - 1 + paths, 2 ** (level + 1) - 1
            feature[nodes], mode[nodes], threshold[nodes], missing[nodes] = self._split(split)
            false[nodes], true[nodes] = children + paths, children + paths + 2**level
        values = np.zeros((count, outputs))
        values[inner:] = scale * np.asarray(item["leaf_values"], np.float64).reshape(leaves, outputs)
        return Tree(feature, mode, threshold, true, false, missing, values, tuple(range(outputs)))

    def _split(self, split: dict[str, Any]) -> tuple[int, str, float, bool]:
        if split["split_type"] == "FloatFeature":
            place = split["float_feature_index"]
            return self._numeric[place], ABOVE, split["border"], self._missing[place]
        if split["split_type"] == "OneHotFeature":
            # CatBoost writes the hash with or without a sign.
            code = self._code_of_hash[split["value"] % 2**32]
            return self._texts[split["cat_feature_index"]], IN, float(code), False
        column = len(self._encoding.features) + self._ctr_of_split[split["split_index"]]
        return column, ABOVE, split["border"], False

    def _numbers(self, ctr: dict[str, Any]) -> CategoryNumbers:
        """Compute the statistic of each category code, as CatBoost does, in single precision."""
        (element,) = ctr["elements"]
        place = self._texts[element["cat_feature_index"]]
        table = self._content["ctr_data"][ctr["identifier"]]
        width = table["hash_stride"]
        entries = np.asarray(table["hash_map"], dtype=object).reshape(-1, width)
        known = {int(row[0]): np.asarray(row[1:], np.float32) for row in entries}
        empty = np.zeros(width - 1, np.float32)
        single, kind = np.float32, ctr["ctr_type"]
        found = []
        # The last number is for values without a code. Their code did not occur in training.
        for code in range(len(self._encoding.vocabularies[self._encoding.features[place].name]) + 1):
            counts = known.get(_projection(self._hash_of_code[code]), empty)
            if kind in ("BinarizedTargetMeanValue", "FloatTargetMeanValue"):
                good, total = counts[0], counts[1]
            elif kind in ("Counter", "FeatureFreq"):
                good, total = counts[0], single(table["counter_denominator"])
            else:
                border = ctr["target_border_idx"]
                good = counts[border] if kind == "Buckets" else counts[border + 1 :].sum(dtype=single)
                total = counts.sum(dtype=single)
            mean = (good + single(ctr["prior_numerator"])) / (total + single(ctr["prior_denomerator"]))
            found.append((mean + single(ctr["shift"])) * single(ctr["scale"]))
        return CategoryNumbers(place, np.asarray(found, np.float32))


def _projection(value: int) -> int:
    """Return the hash under which CatBoost stores the statistics of a category."""
    signed = value - 2**32 if value >= 2**31 else value
    return (_HASH * ((_HASH * (signed & _WORD)) & _WORD)) & _WORD
