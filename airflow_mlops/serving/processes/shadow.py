"""Score rows with a second version, the *shadow*, whose predictions are only logged.

The scoring runs in a separate process: ``python -m airflow_mlops.serving.processes.shadow``.

The process gets the settings as JSON in the first line of standard input, and then the rows that the champion has
answered (:mod:`airflow_mlops.serving.sending.shadow`). The process scores these rows with another version and logs the
predictions. It reports its state on standard output, as one JSON object per line. It ends when standard input is
closed, after it has written its log.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.secrets import MaskedStream
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving.log.spool import Answer, PredictionSpool, open_spool
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.processes import frames
from airflow_mlops.serving.rows.other_columns import converted
from airflow_mlops.serving.rows.request import Rows
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.following import Following
from airflow_mlops.serving.versions.loaded import Versions

log = logging.getLogger(__name__)

# Where all cores are busy, the scheduler gives the process a third of the weight of the server, like the process that
# writes the log. With less weight, loading a version could take longer than `load_seconds`.
_NICE = 5


def packed(answers: Sequence[Answer]) -> bytes:
    """Return a message with the rows of one version's answers, without the predictions.

    The message contains the id, the time of the answer and the number of rows of each request, followed by the rows.
    """
    head = [[answer.request_id, answer.at, answer.rows.count] for answer in answers]
    return frames.packed(head, answers[0].served.columns.logged([answer.rows for answer in answers]))


def unpacked(source: BinaryIO) -> tuple[list[tuple[str, float, int]], Rows] | None:
    """Read a message that :func:`packed` has created.

    :return: the requests and the rows; ``None`` at the end of the input, also after an incomplete message
    """
    found = frames.unpacked(source)
    if found is None:
        return None
    head, table = found
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    plain = {name: values.to_pylist() for name, values in columns.items() if _is_feature(values.type)}
    return [(name, at, count) for name, at, count in head], Rows(table.num_rows, plain, columns)


def _is_feature(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_string(kind))


class Shadow:
    """Scores rows with the loaded shadow version, and logs the predictions.

    :param versions: the loaded versions
    :param spool: log of the predictions
    """

    def __init__(self, versions: Versions, spool: PredictionSpool) -> None:
        self._versions, self._spool = versions, spool
        self._said = ""

    def score(self, requests: Sequence[tuple[str, float, int]], rows: Rows) -> str | None:
        """Score the rows of requests, and log the predictions.

        :param requests: id, time of the answer and number of rows of each request
        :param rows: the rows of all requests
        :return: the problem as text; ``None`` if there was none
        """
        served = self._versions.champion
        if served is None:
            return "no version is loaded"
        began = time.perf_counter()
        try:
            own = converted(rows, served.columns)
            found = served.predict(own)
        except Exception as error:  # noqa: BLE001 - what fails here must not end the process
            return f"{served.ref}: {error}"
        milliseconds = 1000 * (time.perf_counter() - began) / max(1, rows.count)
        start = 0
        for request_id, at, count in requests:
            part = slice(start, start + count)
            some = Rows(
                count,
                {name: values[part] for name, values in own.features.items()},
                {name: values.slice(start, count) for name, values in own.carried.items()},
            )
            predictions = Predictions(found.prediction[part], found.score[part], None)
            self._spool.add(Answer(served, some, predictions, request_id, at, milliseconds * count))
            start += count
        return None


def main() -> None:
    """Score rows until standard input is closed, which happens when the server ends."""
    # No client waits for the shadow. The process that loads its versions inherits the priority.
    os.nice(_NICE)
    # Ctrl-C is handled by the server, which then closes standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(stream=MaskedStream(sys.stderr), level=logging.INFO, format="%(levelname)s shadow: %(message)s")
    source = sys.stdin.buffer
    spec = ServeSpec.model_validate_json(source.readline())
    assert spec.shadow is not None
    store, versions, metrics = ArtifactStore(spec.store), Versions(), Metrics()
    spool = open_spool(spec, store, metrics, "shadow")
    spool.start()
    following = Following(spec, store, versions, spec.shadow, lambda: _say(version=_number(versions)))
    following.start()
    shadow, said = Shadow(versions, spool), ""
    while (message := unpacked(source)) is not None:
        problem = shadow.score(*message)
        if problem is not None and problem != said:
            said = problem
            log.warning("Rows could not be scored: %s", problem)
        dropped = metrics.registry.get_sample_value("mlops_serve_log_dropped_rows_total")
        _say(**{"scored" if problem is None else "failed": message[1].count, "unlogged": dropped})
    following.stop()
    spool.stop()


def _number(versions: Versions) -> int | None:
    return versions.champion.ref.version if versions.champion is not None else None


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    try:
        main()
    except MLOpsError as error:
        sys.exit(f"ERROR {error}")
