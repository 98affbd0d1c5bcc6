"""Run parts of a step on the executors of Spark, with ``mapInArrow``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import TYPE_CHECKING, Any

from airflow_mlops.compute.package import write_package
from airflow_mlops.compute.sent_environment import sent_environment
from airflow_mlops.compute.spark.failures import failure
from airflow_mlops.compute.spark.session import Session, close, open_session
from airflow_mlops.core.connections import ConnectionResolver
from airflow_mlops.core.errors import ComputeError

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.compute.spark.spark import Spark

_ANSWERS = "number long, answer string"
# Airflow kills a task 5 s after a user ended it.
_CLOSING_SECONDS = 4.0


class SparkExecutors:
    """The executors of Spark. The session starts with the first part, so steps without parts start none.

    Credentials of the store are in the code that Spark sends to the executors. They are not part of Spark's
    configuration, so Spark's UI and event log do not show them.

    :param place: the value of ``run_on``
    :param store: URL of the artifact store
    :param connection: function that looks up an Airflow connection by its id
    :param name: name of the application in Spark's UI
    """

    def __init__(self, place: Spark, store: str, connection: ConnectionResolver, name: str) -> None:
        self._place = place
        self._store = store
        self._connection = connection
        self._name = name
        self._session: Session | None = None

    def run(
        self, function: str, arguments: Mapping[str, Any], parts: Sequence[Any], conn_ids: Iterable[str]
    ) -> list[dict[str, Any]]:
        """Run the parts. See :meth:`airflow_mlops.stages.executors.Executors.run`.

        :raises SpecError: the connection or the executors cannot be used
        :raises ComputeError: Spark failed
        """
        spark = self._opened().spark
        run = _runner(function, self._store, json.dumps(arguments), list(parts), self._environment(conn_ids))
        try:
            # Each part is one partition, so Spark schedules and repeats each part separately, also by speculative
            # execution.
            job = spark.range(0, len(parts), 1, len(parts)).mapInArrow(run, _ANSWERS)
            rows = _in_thread(job.collect)
        except Exception as error:  # noqa: BLE001 - of PySpark, Py4J, gRPC or the JVM
            if self._session is None:
                raise ComputeError(
                    f"The job of Spark ({self._name}) was cancelled, because the task was ended."
                ) from None
            raise failure(error, f"The job of Spark ({self._name})") from None
        found = {row["number"]: json.loads(row["answer"]) for row in rows}
        return [found[number] for number in range(len(parts))]

    def _opened(self) -> Session:
        if self._session is None:
            connection = self._connection(self._place.conn_id)
            self._session = open_session(self._place, connection, self._name, write_package())
        return self._session

    def _environment(self, conn_ids: Iterable[str]) -> dict[str, str]:
        return {**sent_environment(conn_ids, self._connection), **self._place.env}

    def close(self) -> None:
        """End the session, and the parts that still run. A signal handler may call this method."""
        session, self._session = self._session, None
        if session is None:
            return
        # The connection of this thread to the JVM may be waiting for a job.
        thread = Thread(target=close, args=(session,), name="close-spark", daemon=True)
        thread.start()
        thread.join(_CLOSING_SECONDS)


def _in_thread(function: Callable[[], Any]) -> Any:
    """Call a function in another thread.

    Called directly, PySpark would wait for the end of a job even after an exception such as Airflow's timeout.
    """
    pool = ThreadPoolExecutor(1, "spark-job")
    try:
        return pool.submit(function).result()
    finally:
        pool.shutdown(wait=False)


def _runner(
    function: str, store: str, arguments: str, parts: Sequence[Any], env: Mapping[str, str]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function that executors run for each partition.

    Executors cannot import this module, because it needs Airflow. The function is therefore a closure that uses no
    global of this module. Spark sends the code of such a function.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import json
        import os

        import pyarrow

        # fsspec reads its variables when it is imported.
        os.environ.update(env)
        from airflow_mlops.stages.executors import answer

        shared = json.loads(arguments)
        for batch in batches:
            for number in batch.column(0).to_pylist():
                found = json.dumps(answer(function, store, shared, parts[number]))
                yield pyarrow.RecordBatch.from_arrays(
                    [pyarrow.array([number], pyarrow.int64()), pyarrow.array([found], pyarrow.string())],
                    ["number", "answer"],
                )

    return run
