"""Executors in this process, which exchange JSON with the step as those of Spark do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from airflow_mlops.stages.executors import answer


class LocalExecutors:
    """Run the parts one after the other, in reverse.

    :param store: URL of the artifact store
    :param before: called with each part before it runs. If it raises an exception, the executor is lost
    :param times: how often each part runs, as with speculation
    """

    def __init__(self, store: str, before: Callable[[Any], None] = lambda part: None, times: int = 1) -> None:
        self.store, self.before, self.times = store, before, times
        self.ran: list[Any] = []
        self.conn_ids: set[str] = set()

    def run(
        self, function: str, arguments: Mapping[str, Any], parts: Sequence[Any], conn_ids: Iterable[str]
    ) -> list[dict[str, Any]]:
        self.conn_ids |= set(conn_ids)
        answers = {}
        for number in reversed(range(len(parts))):
            self.before(parts[number])
            for _ in range(self.times):
                sent = json.loads(json.dumps([dict(arguments), parts[number]]))
                answers[number] = json.loads(json.dumps(answer(function, self.store, *sent)))
            self.ran.append(parts[number])
        return [answers[number] for number in range(len(parts))]
