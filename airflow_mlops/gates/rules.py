"""Create gates from their declarations.

A gate is a class with the fields of its declaration and a method ``check(evidence) -> GateResult``. The keys of a
declaration determine the class, see :data:`GATES`. This module imports no heavy library, because DAG files that declare
gates import this module during parsing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_mlops.core.base import choices, parse
from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.base import Gate, MetricGate
from airflow_mlops.gates.baseline import BetterThanBaseline
from airflow_mlops.gates.behaviour import Direction, Invariance
from airflow_mlops.gates.bounds import Bound
from airflow_mlops.gates.champion import BetterThanChampion, IgnoreChampion
from airflow_mlops.gates.fairness import Fairness
from airflow_mlops.gates.latency import Latency
from airflow_mlops.gates.leakage import Leakage
from airflow_mlops.gates.onnx_parity import OnnxParity
from airflow_mlops.gates.reproducibility import Reproducible
from airflow_mlops.gates.signature import Signature
from airflow_mlops.gates.size import Size
from airflow_mlops.gates.slices import NotWorseOnSlices
from airflow_mlops.metrics.catalog import MAIN_METRIC
from airflow_mlops.metrics.declarations import name_metric

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
    "champion": IgnoreChampion,
}
"""The gate class for each key that identifies a class.

Some keys belong to several classes. For such a key, the value of the key selects the class.
"""


def parse_gates(declared: Any) -> list[Gate]:
    """Create gates from a list of declarations.

    :raises SpecError: a declaration is invalid, or two declarations contradict each other. The error names the
        declaration and the valid keys
    """
    if not isinstance(declared, (list, tuple)) or not declared:
        raise SpecError('Gates must be a list with at least one entry, such as [{"metric": "roc_auc", "min": 0.6}].')
    gates = [_parse_gate(item, f"Gate {number}") for number, item in enumerate(declared, start=1)]
    compared = [gate for gate in gates if isinstance(gate, MetricGate) and gate.against_champion]
    if compared and ignores_champion(gates):
        raise SpecError(
            f'The gates {compared[0].name!r} and {{"champion": "ignore"}} contradict each other: remove one of them.'
        )
    return gates


def ignores_champion(gates: Sequence[Gate]) -> bool:
    """Return whether the gates contain ``{"champion": "ignore"}``, so that a candidate may be worse."""
    return any(isinstance(gate, IgnoreChampion) for gate in gates)


def with_champion(gates: Sequence[Gate], metric: str, greater_is_better: bool | None = None) -> list[Gate]:
    """Return the gates, and add a gate that requires a candidate not to be worse than the champion.

    No gate is added if ``gates`` contain a comparison with the champion on all held-out rows, or the declaration
    ``{"champion": "ignore"}``. A gate on slices is not sufficient, because it ignores slices that are too small for a
    decision.

    :param gates: the declared gates
    :param metric: name of the metric by which the candidates are ranked and compared with the champion
    :param greater_is_better: whether greater values of a custom metric are better; ``None`` for other metrics
    """
    if ignores_champion(gates) or any(isinstance(gate, BetterThanChampion) for gate in gates):
        return list(gates)
    not_worse = BetterThanChampion.model_validate(
        {"metric": metric, "greater_is_better": greater_is_better, "better_than_champion_by": 0.0, "confidence": None}
    )
    return [*gates, not_worse]


def _parse_gate(item: Any, where: str) -> Gate:
    if not isinstance(item, dict):
        raise SpecError(f'{where} is {item!r}, but must be a dict such as {{"metric": "roc_auc", "min": 0.6}}.')
    declared = item
    try:
        item = name_metric(item)
    except ValueError as error:
        raise SpecError(f"{where} {declared!r} cannot be read: {error}.") from None
    kinds = {_kind(key, value, f"{where} {item!r}") for key, value in item.items() if key in GATES}
    valid = sorted({field for kind in kinds or _all() for field in kind.model_fields})
    if unknown := [key for key in item if key not in valid]:
        raise SpecError(f"{where} {item!r} has the unknown key {unknown[0]!r}: {choices(unknown[0], valid)}.")
    if len(kinds) != 1:
        raise SpecError(f"{where} is {item!r}, but must have exactly one of the keys {', '.join(GATES)}.")
    gate: Gate = parse(kinds.pop(), item, f"{where} {item!r}")
    return gate


def _kind(key: str, value: Any, where: str) -> type[Gate]:
    kinds = GATES[key]
    if not isinstance(kinds, dict):
        return kinds
    if value not in kinds:
        raise SpecError(f"{where} has the unknown {key} {value!r}: {choices(value, kinds)}.")
    return kinds[value]


def _all() -> list[type[Gate]]:
    return [kind for kinds in GATES.values() for kind in (kinds.values() if isinstance(kinds, dict) else [kinds])]


def default_gates(task: Task, metric: str | None = None, greater_is_better: bool | None = None) -> list[Gate]:
    """Return the gates that apply if no gates are declared.

    A candidate must be better than the baseline and better than the champion, each with 95% confidence.

    :param task: the ML task (binary, multiclass, regression)
    :param metric: name of the compared metric; by default the main metric of the ML task
    :param greater_is_better: whether greater values of a custom metric are better; ``None`` for other metrics
    """
    decides = {"metric": metric or MAIN_METRIC[task], "greater_is_better": greater_is_better}
    better = [{"better_than_baseline_by": 0.0, "confidence": 0.95}, {"better_than_champion_by": 0.0}]
    return parse_gates([{**decides, **gate} for gate in better])
