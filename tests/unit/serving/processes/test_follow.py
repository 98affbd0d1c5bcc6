import pytest

from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions import failures


@pytest.fixture
def clock(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(failures.time, "monotonic", lambda: now[0])
    return now


def test_a_version_that_fails_is_tried_again_after_pauses_that_double(clock):
    found = failures.Failures()
    assert found.due(3)
    pauses = []
    for _ in range(9):
        found.add(3)
        began = clock[0]
        while not found.due(3):
            assert found.due(4)
            clock[0] += 1
        pauses.append(clock[0] - began)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    found.add(4)
    assert found.due(3)
    assert not found.due(4)


def test_the_pause_goes_on_in_the_next_process(clock):
    found = failures.Failures()
    found.add(3)
    found.add(3)
    clock[0] += 8
    found = failures.Failures(*found.state)
    assert found.state == (3, 2, 12)
    clock[0] += 11
    assert not found.due(3)
    clock[0] += 1
    assert found.due(3)
    found.add(3)
    assert found.state == (3, 3, 40)
    assert failures.Failures(None, 0).due(1)
    # About a week of failures.
    assert not failures.Failures(3, 2_000).due(3)


@pytest.mark.parametrize(
    "fields", [{}, {"canary": "challenger", "canary_share": 0.2}, {"shadow": "4", "token": "s3cret"}]
)
def test_the_processes_of_a_server_get_its_settings_without_the_token(fields):
    spec = ServeSpec(model="m", store="file:///s", **fields)
    given = spec.for_processes()
    assert ServeSpec.model_validate(given) == spec.model_copy(update={"token": None})
    assert "s3cret" not in str(given)
