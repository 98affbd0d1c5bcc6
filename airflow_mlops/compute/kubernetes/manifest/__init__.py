"""Manifests of pods and TrainJobs as JSON. Nothing here imports a Kubernetes client."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
