"""The pause before the first check of an Airflow trigger that resumes a task."""

from __future__ import annotations

import asyncio

# Airflow 3.3 fails a task that is queued again before the scheduler has read that the worker which deferred it has ended.
# Airflow notices this end within 5 s ([workers] min_heartbeat_interval), and the scheduler reads it in its next loop.
_SECONDS = 10.0


async def before_first_check() -> None:
    """Wait until Airflow's scheduler has read that the worker which deferred the task has ended.

    Nearly all tasks check their condition before they are deferred, so the Airflow trigger need not check it at once.
    """
    await asyncio.sleep(_SECONDS)
