"""The sensors of this package. Each sensor is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = {"FeatureFreshnessSensor": "feature_freshness", "ModelHealthSensor": "model_health"}
__all__ = sorted(_MODULES)

if TYPE_CHECKING:
    from airflow_mlops.sensors.feature_freshness import FeatureFreshnessSensor
    from airflow_mlops.sensors.model_health import ModelHealthSensor


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
