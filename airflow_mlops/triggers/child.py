"""Run a module in a separate process and return its answer, so that the triggerer imports no heavy library."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from airflow_mlops.core.errors import ComputeError, by_name


async def ask(
    module: str, question: Any, what: str, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, Any] | None, str]:
    """Run ``python -m MODULE``, and return its answer and the text that it wrote to standard error.

    The module reads the question as JSON from standard input. The last line of its output is a JSON object. The object
    contains ``result`` or, after a failure, ``error`` (the name of a class in :mod:`airflow_mlops.core.errors`) and
    ``message``. The process is killed if the calling coroutine is cancelled.

    :param module: name of the module
    :param question: the question, a value that can be converted to JSON
    :param what: the start of the error message if the process fails, such as ``The registry cannot be read``
    :param environment: additional environment variables, for secrets. Other users can read the arguments of a process,
        but not its environment
    :return: two items: the field ``result`` of the answer, which can be ``None``, and the text on standard error
    :raises ComputeError: the exit status of the process is not 0
    :raises MLOpsError: the error that the module names
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    try:
        out, err = await child.communicate(json.dumps(question).encode())
    finally:
        # The task was killed, or the triggerer stops.
        if child.returncode is None:
            child.kill()
    printed = err.decode(errors="replace").strip()
    if child.returncode:
        raise ComputeError(f"{what}: {printed.rpartition(chr(10))[2]}")
    answer = json.loads(out.strip().rpartition(b"\n")[2])
    if "error" in answer:
        raise by_name(answer["error"])(answer["message"])
    result: dict[str, Any] | None = answer["result"]
    return result, printed
