"""The description of ``run_on=Spark(...)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from airflow_mlops.compute.base import Compute


@dataclass
class Spark(Compute):
    """Builds training sets, validates, scores and profiles datasets, and joins labels to predictions, on the executors of Spark.

    The step itself runs in the Airflow worker, as with ``Worker()``. BuildTrainingSetOperator (for more than 131,072 events),
    ValidateOperator (for more than 262,144 rows), ScoreOperator, ProfileOperator and JoinLabelsOperator divide the rows into parts of about a million rows. The executors read and write the files of the artifact store directly.
    Other operators, and mapped tasks with ``shards``, do not use Spark and run in the worker.

    Executors receive this package from the worker. They need Python of the same minor version, ``numpy``, ``pyarrow``,
    ``pydantic``, ``fsspec`` with the package for the artifact store, ``onnx`` and ``onnxruntime`` for scores,
    ``datasketches`` for profiles, ``duckdb`` for labels and training sets, and ``great_expectations`` and ``pandas`` for validation. They need neither Airflow nor MLflow.

    :param conn_id: id of an Airflow connection. With the type ``spark_connect``, the host is a server of Spark Connect
        (``sc://host``). With the type ``spark``, the host is a master: ``spark://host:7077``, ``yarn``,
        ``k8s://https://host`` or ``local[2]``; the worker then needs Java
    :param conf: settings of Spark, such as ``{"spark.executor.memory": "4g"}``. A server of Spark Connect accepts only
        settings that can be set in a session
    :param archive: path on the worker of a packed Python environment (``.tar.gz``, from ``venv-pack`` or ``conda-pack``).
        Executors unpack it and use its Python. By default they use their own Python
    :param env: environment variables of the executors, for example credentials of the artifact store. By default, the
        executors receive the worker's variables ``AWS_*``, ``AZURE_*``, ``GOOGLE_*`` and ``FSSPEC_*``
    """

    conn_id: str = "spark_connect_default"
    conf: dict[str, str] = field(default_factory=dict, repr=False)
    archive: str | None = None
    env: dict[str, str] = field(default_factory=dict, repr=False)

    runner: ClassVar[str] = "airflow_mlops.compute.spark.runner:SparkRunner"
    template_fields: ClassVar[Sequence[str]] = ("conn_id", "conf", "archive", "env")
