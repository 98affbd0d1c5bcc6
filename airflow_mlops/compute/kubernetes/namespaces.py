"""The namespace of Kubernetes objects for which the user names none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def namespace_for(given: str | None, hook: KubernetesHook) -> str:
    """Return ``given``, or else the namespace of the Airflow connection, or else the namespace in which Airflow runs."""
    own = _OWN_NAMESPACE.read_text() if _OWN_NAMESPACE.exists() else None
    return given or hook.get_namespace() or own or "default"
