"""Train boosted trees with LightGBM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError, TrainingError, one_line
from airflow_mlops.models.onnx.boosting import AT_MOST, IN, Ensemble, Link, Tree
from airflow_mlops.models.onnx.histograms import round_down
from airflow_mlops.models.trainers.boosting.encoding import Encoding
from airflow_mlops.models.trainers.boosting.library import RANKING, Job, choose, gpus, load, objectives, threads
from airflow_mlops.models.trainers.boosting.rows import Rows
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE, NULLS = "booster.txt", False
# With more features than this, LightGBM recommends building histograms column by column instead of row by row.
_WIDE = 256
_OBJECTIVES: dict[str, dict[str, Any]] = {
    "binary": {"binary": "logit", "cross_entropy": "logit"},
    "multiclass": {"multiclass": "softmax"},
    "regression": {
        **dict.fromkeys(("regression", "regression_l1", "huber", "fair", "quantile", "mape"), "identity"),
        **dict.fromkeys(("poisson", "gamma", "tweedie"), "log"),
    },
    RANKING: dict.fromkeys(("lambdarank",), "identity"),
}
# Parts of a node's decision type: the bit of a split by categories, the bit of a split whose missing values go left,
# and the value of the next two bits if NaN is the missing value.
_CATEGORY, _DEFAULT_LEFT, _NAN = 1, 2, 2


def has_gpu() -> bool:
    """Return whether LightGBM can train on a GPU of this machine.

    LightGBM has no function that reports whether it is built with CUDA, so this function tries a small training.
    """
    if not gpus():
        return False
    lightgbm = load("lightgbm")
    rows = lightgbm.Dataset(np.arange(40.0).reshape(-1, 1), np.arange(40) % 2, params={"verbose": -1})
    try:
        lightgbm.train({"device_type": "cuda", "verbose": -1, "objective": "binary"}, rows, 1)
    except lightgbm.basic.LightGBMError:
        return False
    return True


def check(spec: BoostingTrainerSpec, task: Task, features: Sequence[Any]) -> None:
    """Check the parameters, as described in :class:`~airflow_mlops.models.trainers.boosting.library.Library`."""
    found = objectives(_OBJECTIVES, task, spec)
    choose(found, spec.params, "objective", next(iter(found)))
    allowed = {"boosting": ("gbdt", "goss"), "linear_tree": (False,), "zero_as_missing": (False,), "reg_sqrt": (False,)}
    for name, values in {**allowed, "use_missing": (True,)}.items():
        if name in spec.params and spec.params[name] not in values:
            raise SpecError(f"params has {name}={spec.params[name]!r}, which cannot be exported to ONNX. Remove it.")


def train(job: Job) -> LightGBMModel:
    """Train a model, from the checkpoint or from ``job.start`` if there is one.

    :param job: the rows and the settings of the training
    :raises TrainingError: LightGBM refuses the parameters or the rows
    """
    lightgbm = load("lightgbm")
    known = objectives(_OBJECTIVES, job.task, job.spec)
    objective, link = choose(known, job.spec.params, "objective", next(iter(known)))
    wide = len(job.rows.encoding.features) > _WIDE
    params = {
        "force_col_wise" if wide else "force_row_wise": True,
        "verbose": -1,
        **threads(job.spec.params, "num_threads", "num_thread", "nthread", "nthreads", "n_jobs"),
        # Early stopping of a ranking measures NDCG@10.
        **({"eval_at": 10} if job.rows.groups is not None else {}),
        **job.spec.params,
        "objective": objective,
        **({"num_class": job.classes} if job.task == "multiclass" else {}),
        "device_type": "cuda" if job.gpu else "cpu",
        "seed": job.seed,
        "deterministic": True,
    }
    progress = job.progress
    saved = progress.resume()
    given = saved if saved is not None else job.start
    start = None if given is None else lightgbm.Booster(model_str=given.decode())
    trained = 0 if start is None else start.current_iteration()
    first = trained - progress.state.round
    booster = start

    def after(environment: Any) -> None:
        losses = environment.evaluation_result_list
        loss = float(losses[0][2]) if losses else None
        if loss is not None and losses[0][3]:
            # NDCG lies between 0 and 1, and higher values are better, so it is converted to a loss.
            loss = 1 - loss
        if progress.after(loss, lambda: environment.model.model_to_string().encode()):
            raise lightgbm.callback.EarlyStopException(environment.iteration, losses)

    try:
        if not progress.is_finished:
            # To continue from a model, LightGBM predicts all rows, and accepts only arrays for this purpose. Arrays are
            # also faster.
            streamed = start is None and not job.rows.fit_into_cache
            rows = _dataset(lightgbm, job.rows, params, streamed=streamed)
            parts = []
            if job.held_out is not None:
                parts = [_dataset(lightgbm, job.held_out, params, streamed=streamed, reference=rows)]
            with progress.following():
                booster = lightgbm.train(
                    params,
                    rows,
                    num_boost_round=job.spec.rounds - progress.state.round,
                    valid_sets=parts,
                    valid_names=["validation"] * len(parts),
                    init_model=start,
                    callbacks=[after],
                )
    except lightgbm.basic.LightGBMError as error:
        raise TrainingError(f"LightGBM cannot train with params={job.spec.params}: {one_line(error, 300)}") from error
    assert booster is not None
    text = booster.model_to_string(num_iteration=first + progress.state.best_round)
    return LightGBMModel(lightgbm, text, link)


def _dataset(lightgbm: Any, rows: Rows, params: dict[str, Any], *, streamed: bool, reference: Any = None) -> Any:
    class Chunk(lightgbm.Sequence):  # type: ignore[misc]
        batch_size = 65_536

        def __init__(self, number: int) -> None:
            self._number = number
            start, end = rows.spans[number]
            self._size = end - start

        def __getitem__(self, place: Any) -> NDArray[Any]:
            found = rows.matrix(self._number)[place]
            # LightGBM takes single rows, from which it learns the bins, only in double precision.
            return found.astype(np.float64) if found.ndim == 1 else found

        def __len__(self) -> int:
            return self._size

    made = lightgbm.Dataset(
        [Chunk(chunk) for chunk in rows.chunks] if streamed else rows.all(),
        label=rows.labels,
        weight=rows.weights,
        group=None if rows.groups is None else np.unique(rows.groups, return_counts=True)[1],
        categorical_feature=rows.encoding.categorical,
        params=params,
        reference=reference,
    )
    if streamed:
        made.construct()
    rows.drop_cache()
    return made


class LightGBMModel:
    """A trained LightGBM booster."""

    def __init__(self, lightgbm: Any, text: str, link: Any) -> None:
        self._text, self._link = text, link
        self._booster = lightgbm.Booster(model_str=text)
        self.rounds = self._booster.current_iteration()

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        found = np.asarray(self._booster.predict(matrix), dtype=np.float64)
        if self._link == "logit":
            return np.column_stack([1 - found, found])
        return found.reshape(len(matrix), -1)

    def to_bytes(self) -> bytes:
        return self._text.encode()

    def ensemble(self, encoding: Encoding) -> Ensemble:
        header, *parts = self._text.partition("end of trees")[0].split("\nTree=")
        fields = _fields(header)
        outputs = int(fields["num_tree_per_iteration"])
        trees = [_tree(_fields(part), number % outputs) for number, part in enumerate(parts)]
        return Ensemble(trees, np.zeros(outputs), self._link, scale=_scale(fields, self._link))


def contributions(
    content: bytes, encoding: Encoding
) -> tuple[Link, Callable[[NDArray[np.float32]], NDArray[np.float64]]]:
    """Read a stored model, as described in :class:`~airflow_mlops.models.trainers.boosting.library.Library`."""
    lightgbm = load("lightgbm")
    try:
        booster = lightgbm.Booster(model_str=content.decode())
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"LightGBM cannot read {FILE} ({one_line(error, 200)})") from error
    fields = _fields(content.decode().partition("\nTree=")[0])
    objective = fields["objective"].split()[0]
    (link,) = {links[objective] for links in _OBJECTIVES.values() if objective in links}
    scale = _scale(fields, link)

    def found(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        values = booster.predict(matrix, pred_contrib=True, **threads({}, "num_threads"))
        return scale * np.asarray(values, dtype=np.float64).reshape(len(matrix), -1, len(encoding.features) + 1)

    return link, found


def _scale(fields: dict[str, str], link: str) -> float:
    """Return the factor that converts the sum of the trees to log-odds; 1 for other links."""
    # The text of the objective contains its parameters, such as "binary sigmoid:1".
    options = dict(item.split(":", 1) for item in fields["objective"].split()[1:] if ":" in item)
    return float(options.get("sigmoid", 1)) if link == "logit" else 1.0


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _numbers(fields: dict[str, str], name: str, kind: Any) -> NDArray[Any]:
    return np.array(fields.get(name, "").split(), dtype=kind)


def _tree(fields: dict[str, str], target: int) -> Tree:
    """Read a tree from LightGBM's text format, in which a negative child number stands for a leaf.

    In the returned tree, the inner nodes precede the leaves.

    :param fields: the lines of the tree, by name
    :param target: position of the output to which the tree adds
    """
    leaves = _numbers(fields, "leaf_value", np.float64)
    inner = len(leaves) - 1
    feature, children = _numbers(fields, "split_feature", np.int64), []
    for name in ("left_child", "right_child"):
        found = _numbers(fields, name, np.int64)
        children.append(np.concatenate([np.where(found < 0, inner + ~found, found), np.zeros(len(leaves), np.int64)]))
    kind, thresholds = _numbers(fields, "decision_type", np.int64), _numbers(fields, "threshold", np.float64)
    category = (kind & _CATEGORY) > 0
    # Unless the feature had missing values in training, LightGBM replaces a missing value with 0.
    missing_left = np.where((kind >> 2) & 3 == _NAN, (kind & _DEFAULT_LEFT) > 0, thresholds >= 0) & ~category
    bounds, bits = _numbers(fields, "cat_boundaries", np.int64), _numbers(fields, "cat_threshold", np.uint32)
    members = {}
    for node in np.flatnonzero(category):
        place = int(thresholds[node])
        words = bits[bounds[place] : bounds[place + 1]].astype("<u4")
        members[int(node)] = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
    pad = np.zeros(len(leaves))
    return Tree(
        feature=np.concatenate([feature, np.full(len(leaves), -1)]),
        mode=np.concatenate([np.where(category, IN, AT_MOST), np.full(len(leaves), AT_MOST)]),
        threshold=np.concatenate([round_down(thresholds), pad]).astype(np.float32),
        true=children[0],
        false=children[1],
        missing_true=np.concatenate([missing_left, pad > 0]),
        leaves=np.concatenate([np.zeros(inner), leaves]).reshape(-1, 1),
        targets=(target,),
        members=members,
    )
