"""Run parts of a step on other machines, such as the executors of Spark.

A part is a function of this package with JSON arguments. It reads its rows from the artifact store and writes its files
there, so no rows pass through the machine that runs the step. Only the step itself makes files visible to readers.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol

from airflow_mlops.core import resource_errors
from airflow_mlops.core.errors import MLOpsError, SpecError
from airflow_mlops.core.secrets import mask, remember_fields
from airflow_mlops.core.termination import peak_memory
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import library_errors


class Executors(Protocol):
    """Machines that run parts of a step."""

    def run(
        self, function: str, arguments: Mapping[str, Any], parts: Sequence[Any], conn_ids: Iterable[str]
    ) -> list[dict[str, Any]]:
        """Run ``function`` for each part, and return the answers of :func:`answer` in the order of ``parts``.

        The parts run in any order. If a machine is lost, its parts run again elsewhere. A slow part may run twice at
        the same time.

        :param function: import path of the function, see :func:`answer`
        :param arguments: arguments that all parts share, as JSON values
        :param parts: the argument of each part, as a JSON value
        :param conn_ids: ids of the Airflow connections that the function uses
        :raises MLOpsError: the parts could not be run
        """


def answer(function: str, store: str, arguments: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """Run one part in this process.

    :param function: import path of the function, as ``package.module:name``. It takes the artifact store, ``arguments``
        and ``part``, and returns a JSON value
    :param store: URL of the artifact store
    :return: ``result``, or ``error``, ``message``, ``traceback`` and, for errors of this package, ``retryable`` if the
        function raised an exception; and the used resources ``cpu_seconds``, ``peak_memory_mb``, ``read_bytes`` and ``written_bytes``
    """
    remember_fields(os.environ)
    started, found = time.process_time(), {}
    read = written = 0
    try:
        opened = _store(store)
        read, written = opened.traffic.read, opened.traffic.written
        module, _, name = function.partition(":")
        found["result"] = getattr(import_module(module), name)(opened, arguments, part)
        read, written = opened.traffic.read - read, opened.traffic.written - written
    except Exception as error:  # noqa: BLE001 - the step raises it again, on its own machine
        explained = resource_errors.explain(error)
        if explained is None and not isinstance(error, MLOpsError):
            explained = library_errors.explain(error, _step(function))
        if isinstance(error, ModuleNotFoundError):
            explained = SpecError(
                f"The Python of the executors has no module {error.name!r}. Install its package on the executors, or pass a "
                "packed environment with Spark(archive=...)."
            )
        shown = explained or error
        found["error"], found["message"] = type(shown).__name__, mask(" ".join(str(shown).split()))
        if isinstance(shown, MLOpsError):
            found["retryable"] = shown.retryable
        found["traceback"] = "" if isinstance(error, MLOpsError) else mask(traceback.format_exc())
    return {
        **found,
        "cpu_seconds": time.process_time() - started,
        "peak_memory_mb": peak_memory() / 1e6,
        "read_bytes": read,
        "written_bytes": written,
    }


def _step(function: str) -> str:
    """Return the name of the step in ``airflow_mlops.stages.STEP.module:name``."""
    parts = function.split(".")
    return parts[2] if len(parts) > 2 else function


@lru_cache(maxsize=4)
def _store(url: str) -> ArtifactStore:
    # A process runs many parts, and opening an object store sends requests that check what the store supports.
    return ArtifactStore(url)
