"""``run_on=Ray(...)`` without a cluster: parameters, connections and errors."""

from __future__ import annotations

import pytest

from airflow_mlops.compute import Ray, from_text
from airflow_mlops.compute.ray.cluster import _require_resources, _start, address_of
from airflow_mlops.compute.ray.failures import failure
from airflow_mlops.core.connections import ConnectionInfo, from_environment
from airflow_mlops.core.errors import ComputeError, MemoryLimitError, SpecError


def connection(**parts: object) -> ConnectionInfo:
    return ConnectionInfo.of("ray", **{"conn_type": "ray", **parts})


@pytest.mark.parametrize(
    ("parts", "address"),
    [
        ({"host": "ray://h", "port": 10002}, "ray://h:10002"),
        ({"host": "ray://h:10002/"}, "ray://h:10002"),
        ({"host": "h", "conn_type": "generic"}, "ray://h:10001"),
        ({"host": "[::1]"}, "ray://[::1]:10001"),
        ({"host": "[::1]:10002"}, "ray://[::1]:10002"),
        ({"host": "auto"}, "auto"),
        ({"host": "local"}, "local"),
    ],
)
def test_the_address_of_a_cluster(parts, address):
    assert address_of(connection(**parts)) == address


@pytest.mark.parametrize("uri", ["ray://:token@h:10001", "ray://ray%3A%2F%2Fh:10001"])
def test_the_address_of_ray_is_the_uri_of_the_connection(uri, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_RAY", uri)
    assert address_of(from_environment("ray")) == "ray://h:10001"


@pytest.mark.parametrize(
    "parts",
    [{"host": None}, {"host": "http://h", "port": 8265}, {"host": "ray://h/path"}, {"host": "h", "conn_type": "http"}],
)
def test_a_connection_that_names_no_cluster(parts):
    with pytest.raises(SpecError, match="'ray'"):
        address_of(connection(**parts))


class FailingRay:
    """Stands for Ray whose client servers do not start, because a real one does so at random."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.started, self.ended = list(errors), 0, 0

    def init(self, **options: object) -> None:
        self.started += 1
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self) -> None:
        self.ended += 1


NOT_STARTED = ConnectionAbortedError("RuntimeError: Starting Ray client server failed. See ray_client_server_23001.err")

ENDED = ConnectionAbortedError(
    "Initialization failure from server:\nTraceback (most recent call last):\n"
    '  File "/ray/util/client/server/proxier.py", line 765, in Datapath\n    if not self.proxy_manager.start_specific_server(\n'
    "psutil.ZombieProcess: PID still exists but it's a zombie (pid=7)\n"
)

NO_AGENT = ConnectionAbortedError("TimeoutError: GetOrCreateRuntimeEnv request failed after 5 attempts.")


def test_a_client_server_that_does_not_start_is_started_again():
    ray = FailingRay(NOT_STARTED, NO_AGENT, ENDED)
    _start(ray)
    assert (ray.started, ray.ended) == (4, 3)


@pytest.mark.parametrize(
    ("error", "started"), [(NOT_STARTED, 4), (ConnectionError("timeout"), 1), (ValueError("x"), 1)]
)
def test_errors_of_the_connection_to_ray_are_raised(error, started):
    ray = FailingRay(*[error] * 9)
    with pytest.raises(type(error)):
        _start(ray)
    assert ray.started == started


def test_an_error_names_the_exception_that_ended_a_traceback():
    message = str(failure(ENDED, "Ray"))
    assert "psutil.ZombieProcess: PID still exists" in message
    assert "Traceback" not in message


def test_resources_have_the_names_of_ray():
    assert Ray().resources() == {"CPU": 1}
    assert Ray(num_cpus=2, num_gpus=0.5, memory="1.5Gi").resources() == {"CPU": 2, "GPU": 0.5, "memory": 1.5 * 2**30}
    place = Ray(num_cpus="{{ params.cpus }}")
    with pytest.raises(SpecError, match="num_cpus"):
        place.resources()


@pytest.mark.parametrize(
    "parts",
    [
        {"num_cpus": 0},
        {"num_cpus": -1},
        {"num_cpus": "many"},
        {"num_gpus": 1.5},
        {"num_gpus": float("nan")},
        {"memory": "8 GB"},
        {"schedule_timeout": float("inf")},
        {"runtime_env": {"env_vars": {"A": "{{ conn.shop.password }}"}}},
    ],
)
def test_invalid_resources_are_errors_of_the_dag_file(parts):
    with pytest.raises(SpecError, match=next(iter(parts))):
        Ray(**parts)


def test_a_local_ray_never_gets_more_resources():
    _require_resources({"CPU": 2, "memory": 100}, {"CPU": 2, "memory": 100})
    with pytest.raises(SpecError, match="1 GPU"):
        _require_resources({"CPU": 2}, {"CPU": 1, "GPU": 1})


def test_ray_is_parsed_from_text_and_shows_no_secret():
    place = from_text('{"Ray": {"conn_id": "big", "num_gpus": 1, "env": {"AWS_SECRET_ACCESS_KEY": "hidden"}}}')
    assert isinstance(place, Ray)
    assert (place.conn_id, place.num_gpus) == ("big", 1)
    assert "hidden" not in repr(place)


MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.55.0
    Python: 3.12.3
This process on Ray Client was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""
IN_SERVER = """Initialization failure from server:
Traceback (most recent call last):
  File "/ray/_private/runtime_env/pip.py", line 134, in __init__
    raise RuntimeError(
RuntimeError: Please install virtualenv
to enable pip runtime env.

"""


def test_errors_of_ray_are_one_sentence():
    found = failure(RuntimeError(MISMATCH), "The cluster")
    assert isinstance(found, SpecError)
    assert "Ray 2.55.0 and Python 3.12.3, but the worker has Ray 2.60.0 and Python 3.11.7" in str(found)
    found = failure(ConnectionAbortedError(IN_SERVER), "The cluster")
    assert isinstance(found, ComputeError)
    assert "(ConnectionAbortedError: RuntimeError: Please install virtualenv to enable pip runtime env)" in str(found)
    assert "runtime_env=" in str(found)
    assert not [part for part in ("Traceback", "File", "\n") if part in str(found)]
    assert failure(ConnectionError("ray client connection timeout"), "The cluster").retryable


def test_errors_by_the_classes_of_ray():
    exceptions = pytest.importorskip("ray.exceptions", reason="Ray is not installed: pip install airflow-mlops[ray]")
    found = failure(exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."), "The task")
    assert isinstance(found, MemoryLimitError)
    assert found.retryable
    assert isinstance(failure(exceptions.AuthenticationError("InvalidAuthToken"), "The task"), SpecError)
    assert failure(exceptions.NodeDiedError("lost"), "The task").retryable


def test_the_message_about_versions_is_that_of_ray():
    utils = pytest.importorskip("ray._private.utils", reason="Ray is not installed: pip install airflow-mlops[ray]")
    with pytest.raises(RuntimeError) as raised:
        utils.check_version_info({"ray_version": "1.0.0", "python_version": "3.9.1"}, "Ray Client")
    assert "Ray 1.0.0 and Python 3.9.1, but" in str(failure(raised.value, "The cluster"))
