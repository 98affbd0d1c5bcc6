"""Find the namespace of Kubernetes objects if the user has not set one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def namespace_for(given: str | None, hook: KubernetesHook) -> str:
    """Return the namespace to use.

    It is the first of these that is set: ``given``, the namespace of the Airflow connection, the namespace in which
    Airflow runs, ``default``.

    :param given: the namespace that the user has set; ``None`` if none is set
    :param hook: hook of the Airflow connection to the cluster
    """
    own = _OWN_NAMESPACE.read_text() if _OWN_NAMESPACE.exists() else None
    return given or hook.get_namespace() or own or "default"
