"""A step for tests: it can take long, use memory, fail, or end its process."""

from __future__ import annotations

import os
import time
from pathlib import Path

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.errors import SourceError


class ProbeSpec(Spec):
    """:param counter: file to which each run adds a line
    :param seconds: how long a run takes
    :param first_seconds: how long the first run takes, if longer
    """

    counter: str
    seconds: float = 0
    first_seconds: float = 0
    memory_mb: int = 0
    fail: str = ""
    exit: int = 0
    text: str = ""


class ProbeResult(Result):
    runs: int
    text: str


def run(spec: ProbeSpec, context) -> ProbeResult:
    counter = Path(spec.counter)
    with counter.open("a") as file:
        file.write(f"{os.environ.get('MLOPS_POD', 'worker')}\n")
    runs = len(counter.read_text().splitlines())
    context.progress(f"probing, run {runs}")
    held = []
    for _ in range(spec.memory_mb // 10):
        held.append(bytearray(os.urandom(1) * 10 * 2**20))
        time.sleep(0.05)
    for second in range(int(max(spec.seconds, spec.first_seconds if runs == 1 else 0))):
        time.sleep(1)
        context.progress(f"second {second + 1}")
    if spec.fail:
        raise SourceError(spec.fail)
    if spec.exit:
        os._exit(spec.exit)
    return ProbeResult(runs=runs, text=spec.text, summary=f"Probed {runs} times.")
