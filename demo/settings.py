"""Settings of the demo: folder, ports and months. All can be set by environment variables."""

from __future__ import annotations

import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

_STAGES = (
    "ingest", "validate", "materialize_features", "training_set", "train", "evaluate", "refit", "promote", "score",
    "join_labels", "monitor",
)  # fmt: skip
# The scheduler imports these modules once. Tasks are forked from it, so the modules are already loaded.
PRELOAD = [
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    *(f"airflow_mlops.stages.{stage}.step" for stage in _STAGES),
    "great_expectations",
    "feast",
    "mlflow.sklearn",
    "mlflow.tracking",
    "onnxruntime",
    "pandas",
    "skl2onnx",
    "skops.io",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
]


@dataclass(frozen=True)
class Settings:
    """The settings of the demo.

    :param home: folder for databases, logs and artifacts
    :param airflow_port: port of Airflow's web server
    :param mlflow_port: port of the MLflow server
    :param serving_port: port of the server that answers requests with the champion
    :param months: the months of 2013 to replay, as partition keys
    """

    home: Path
    airflow_port: int
    mlflow_port: int
    serving_port: int
    months: tuple[str, ...]

    @classmethod
    def from_environment(cls) -> Settings:
        """Read ``DEMO_HOME``, ``AIRFLOW_PORT``, ``MLFLOW_PORT``, ``SERVING_PORT`` and ``MONTHS`` (1 to 12 months)."""
        count = int(os.environ.get("MONTHS") or 12)
        if not 1 <= count <= 12:
            sys.exit(f"MONTHS={count} is out of range: choose 1 to 12.")
        return cls(
            home=Path(os.environ.get("DEMO_HOME") or REPOSITORY / ".demo").resolve(),
            airflow_port=int(os.environ.get("AIRFLOW_PORT") or 8080),
            mlflow_port=int(os.environ.get("MLFLOW_PORT") or 5000),
            serving_port=int(os.environ.get("SERVING_PORT") or 8090),
            months=tuple(f"2013-{month:02d}" for month in range(1, count + 1)),
        )

    @property
    def airflow_url(self) -> str:
        return f"http://127.0.0.1:{self.airflow_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def serving_url(self) -> str:
        return f"http://127.0.0.1:{self.serving_port}"

    @property
    def artifacts(self) -> str:
        return f"file://{self.home}/artifacts"

    def environment(self) -> dict[str, str]:
        """The environment of all services: the caller's without its Airflow settings, plus the settings of the demo."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        keys = self._keys()
        return {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(max(2, os.cpu_count() or 2)),
            "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow/airflow.db",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.airflow_port),
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": keys["api"],
            "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
            # The example DAGs do not change while the demo runs, so parsing them once a minute is enough.
            # Airflow notices the end of a task up to this many seconds late (5 by default).
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "airflow" / "logs"),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__MLOPS__ARTIFACTS": self.artifacts,
            "AIRFLOW__MLOPS__PRELOAD": ",".join(PRELOAD),
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": self.mlflow_url}),
            # The DAG flights_deploy checks that this server follows the champion.
            "AIRFLOW_VAR_FLIGHTS_SERVER": self.serving_url,
            "FLIGHTS_FEATURES_HOME": str(self.home / "feast"),
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Job execution would start nine processes, which the demo does not need.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "FEAST_USAGE": "False",
            "GX_ANALYTICS_ENABLED": "false",
        }

    def _keys(self) -> dict[str, str]:
        """The keys that all services of Airflow share. They are generated once."""
        file = self.home / "keys.json"
        if not file.exists():
            from cryptography.fernet import Fernet

            self.home.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            fernet = Fernet.generate_key().decode()
            file.write_text(json.dumps({"fernet": fernet, "api": secrets.token_hex(32), "jwt": secrets.token_hex(32)}))
        return dict(json.loads(file.read_text()))
