"""The operators, one for each stage of the lifecycle, and the values of their parameters.

Each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = {
    "Approval": "approval",
    "BuildForecastRowsOperator": "forecast_rows",
    "BuildTrainingSetOperator": "training_set",
    "CanaryOperator": "canary",
    "CompareFeaturesOperator": "compare_features",
    "Decay": "windows",
    "DeployOperator": "deploy",
    "EvaluateOperator": "evaluate",
    "Expanding": "windows",
    "IngestOperator": "ingest",
    "JoinLabelsOperator": "join_labels",
    "MaterializeFeaturesOperator": "materialize_features",
    "MonitorOperator": "monitor",
    "ProfileOperator": "profile",
    "PromoteOperator": "promote",
    "PurgePredictionsOperator": "purge_predictions",
    "RefitOperator": "refit",
    "RollbackOperator": "rollback",
    "Rolling": "windows",
    "ScoreOperator": "score",
    "SearchOperator": "search",
    "TrainOperator": "train",
    "TransferModelOperator": "transfer",
    "UndeployOperator": "undeploy",
    "ValidateOperator": "validate",
}
__all__ = sorted(_MODULES)

if TYPE_CHECKING:
    from airflow_mlops.operators.approval import Approval
    from airflow_mlops.operators.canary import CanaryOperator
    from airflow_mlops.operators.compare_features import CompareFeaturesOperator
    from airflow_mlops.operators.deploy import DeployOperator
    from airflow_mlops.operators.evaluate import EvaluateOperator
    from airflow_mlops.operators.forecast_rows import BuildForecastRowsOperator
    from airflow_mlops.operators.ingest import IngestOperator
    from airflow_mlops.operators.join_labels import JoinLabelsOperator
    from airflow_mlops.operators.materialize_features import MaterializeFeaturesOperator
    from airflow_mlops.operators.monitor import MonitorOperator
    from airflow_mlops.operators.profile import ProfileOperator
    from airflow_mlops.operators.promote import PromoteOperator
    from airflow_mlops.operators.purge_predictions import PurgePredictionsOperator
    from airflow_mlops.operators.refit import RefitOperator
    from airflow_mlops.operators.rollback import RollbackOperator
    from airflow_mlops.operators.score import ScoreOperator
    from airflow_mlops.operators.search import SearchOperator
    from airflow_mlops.operators.train import TrainOperator
    from airflow_mlops.operators.training_set import BuildTrainingSetOperator
    from airflow_mlops.operators.transfer import TransferModelOperator
    from airflow_mlops.operators.undeploy import UndeployOperator
    from airflow_mlops.operators.validate import ValidateOperator
    from airflow_mlops.operators.windows import Decay, Expanding, Rolling


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
