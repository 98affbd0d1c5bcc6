"""Manifests of pods and TrainJobs as JSON. The modules of this package do not import a Kubernetes client."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
