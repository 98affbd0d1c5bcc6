"""The gates, and how they are declared. Light: a DAG that declares gates imports this while it is parsed.

A gate is a small class with the fields it is declared with and ``check(evidence) -> GateResult``. Which class a
declaration means is told by its keys, see :data:`GATES`.
"""

from __future__ import annotations

from typing import Any

from airflow_mlops.core.base import parse
from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.base import Gate, choices
from airflow_mlops.gates.baseline import BetterThanBaseline
from airflow_mlops.gates.behaviour import Direction, Invariance
from airflow_mlops.gates.bounds import Bound
from airflow_mlops.gates.champion import BetterThanChampion
from airflow_mlops.gates.fairness import Fairness
from airflow_mlops.gates.latency import Latency
from airflow_mlops.gates.leakage import Leakage
from airflow_mlops.gates.onnx_parity import OnnxParity
from airflow_mlops.gates.reproducibility import Reproducible
from airflow_mlops.gates.signature import Signature
from airflow_mlops.gates.size import Size
from airflow_mlops.gates.slices import NotWorseOnSlices
from airflow_mlops.metrics.catalog import MAIN_METRIC

GATES: dict[str, type[Gate] | dict[str, type[Gate]]] = {
    "min": Bound,
    "max": Bound,
    "better_than_champion_by": BetterThanChampion,
    "better_than_baseline_by": BetterThanBaseline,
    "not_worse_than_champion_by": NotWorseOnSlices,
    "behaviour": {"direction": Direction, "invariance": Invariance},
    "fairness": {"demographic_parity": Fairness, "equalized_odds": Fairness},
    "max_latency_ms": Latency,
    "max_size_mb": Size,
    "max_single_feature_score": Leakage,
    "can_score": Signature,
    "reproducible": Reproducible,
    "max_onnx_difference": OnnxParity,
}
"""Which gate a declaration means: the key that only that gate has, or that key's value."""


def parse_gates(declared: Any) -> list[Gate]:
    """Turn a list of declarations into gates.

    :raises SpecError: naming the declaration that is wrong and what it may say
    """
    if not isinstance(declared, (list, tuple)) or not declared:
        raise SpecError('Gates are a list with at least one entry, such as [{"metric": "roc_auc", "min": 0.6}].')
    return [_parse_gate(item, f"Gate {number}") for number, item in enumerate(declared, start=1)]


def _parse_gate(item: Any, where: str) -> Gate:
    if not isinstance(item, dict):
        raise SpecError(f'{where} is {item!r}: it must be a dict such as {{"metric": "roc_auc", "min": 0.6}}.')
    kinds = {_kind(key, value, f"{where} {item!r}") for key, value in item.items() if key in GATES}
    known = sorted({field for kind in kinds or _all() for field in kind.model_fields})
    if unknown := [key for key in item if key not in known]:
        raise SpecError(
            f"{where} {item!r} has a key {unknown[0]!r}, which it cannot have: {choices(unknown[0], known)}."
        )
    if len(kinds) != 1:
        raise SpecError(f"{where} is {item!r}: it must have a metric and one of {', '.join(GATES)}.")
    gate: Gate = parse(kinds.pop(), item, f"{where} {item!r}")
    return gate


def _kind(key: str, value: Any, where: str) -> type[Gate]:
    kinds = GATES[key]
    if not isinstance(kinds, dict):
        return kinds
    if value not in kinds:
        raise SpecError(f"{where} has the {key} {value!r}: {choices(value, kinds)}.")
    return kinds[value]


def _all() -> list[type[Gate]]:
    return [kind for kinds in GATES.values() for kind in (kinds.values() if isinstance(kinds, dict) else [kinds])]


def default_gates(task: Task, metric: str | None = None) -> list[Gate]:
    """What is asked where nothing was declared: better than the baseline, and with 95% confidence than the champion.

    :param metric: the metric that decides; the task's main metric unless given
    """
    metric = metric or MAIN_METRIC[task]
    return parse_gates(
        [{"metric": metric, "better_than_baseline_by": 0.0}, {"metric": metric, "better_than_champion_by": 0.0}]
    )
