import pytest

from airflow_mlops.serving import follow
from airflow_mlops.serving.spec import ServeSpec


@pytest.fixture
def clock(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(follow.time, "monotonic", lambda: now[0])
    return now


def test_a_version_that_fails_is_tried_again_after_pauses_that_double(clock):
    failures = follow.Failures()
    assert failures.due(3)
    pauses = []
    for _ in range(9):
        failures.add(3)
        began = clock[0]
        while not failures.due(3):
            assert failures.due(4)
            clock[0] += 1
        pauses.append(clock[0] - began)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    failures.add(4)
    assert failures.due(3)
    assert not failures.due(4)


def test_the_pause_goes_on_in_the_next_process(clock):
    failures = follow.Failures(3, 2)
    assert not failures.due(3)
    clock[0] += 20
    assert failures.due(3)
    assert follow.Failures(None, 0).due(1)
    # About a week of failures.
    assert not follow.Failures(3, 2_000).due(3)


@pytest.mark.parametrize(
    "fields", [{}, {"canary": "challenger", "canary_share": 0.2}, {"shadow": "4", "token": "s3cret"}]
)
def test_the_processes_of_a_server_get_its_settings_without_the_token(fields):
    spec = ServeSpec(model="m", store="file:///s", **fields)
    given = spec.for_processes()
    assert ServeSpec.model_validate(given) == spec.model_copy(update={"token": None})
    assert "s3cret" not in str(given)
