"""The index of models agrees with the ledger, the reports and the predictions, whoever wrote them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Drift
from airflow_mlops.overview import candidates, copies, drift, index, keys, models, monitoring, sections
from tests.support import reports
from tests.support.models import promote, publish_drift, score, version

MONTHS = [f"2013-{month:02}" for month in range(1, 13)]


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    index.forget()
    if request.param == "file":
        return ArtifactStore(tmp_path.as_uri())
    return ArtifactStore(f"memory://index-{tmp_path.name}")


def by_name(store: ArtifactStore) -> dict[str, object]:
    found = models.models(store)
    assert found.problems == []
    return {item.name: item for item in found.models}


def test_a_store_of_an_earlier_release_shows_its_models(store: ArtifactStore) -> None:
    promote(store, 1)
    promote(store, 2)
    for month in MONTHS[:3]:
        reports.publish(store, month)
    reports.publish(store, "2013-01", "watch", model="other")
    score(store, "2013-03", 2)
    score(store, "2013-04", 1, name="elsewhere", model="third")
    found = by_name(store)
    assert set(found) == {"delays", "other", "third"}
    delays = found["delays"]
    assert (delays.champion.version, delays.champion.by, delays.previous) == (2, "ann", 1)
    assert delays.monitoring.trend.windows == MONTHS[:3]
    assert (delays.scoring.window.label, delays.scoring.version, delays.scoring.rows) == ("2013-03", 2, 2)
    assert (delays.dags.train, delays.dags.score) == (["train"], ["score"])
    assert found["other"].monitoring.verdict == "watch"
    assert found["third"].scoring.window.label == "2013-04"


def test_an_update_shows_what_was_added(store: ArtifactStore) -> None:
    assert by_name(store) == {}
    promote(store, 1)
    index.update(store, "delays", "decisions")
    assert by_name(store)["delays"].champion.version == 1
    promote(store, 2)
    assert by_name(store)["delays"].champion.version == 1
    index.update(store, "delays", "decisions")
    assert by_name(store)["delays"].champion.version == 2


def test_all_sections_equal_the_truth_after_concurrent_writers(store: ArtifactStore) -> None:
    by_name(store)

    def check(month: str) -> None:
        reports.publish(store, month)
        index.update(store, "delays", "monitoring")

    threads = [threading.Thread(target=check, args=(month,)) for month in MONTHS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trend = by_name(store)["delays"].monitoring.trend
    assert trend.windows == MONTHS


def test_the_last_of_two_writers_repairs_the_section(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer changes the ledger and the section after this writer has read and before it writes."""
    by_name(store)
    promote(store, 1)
    write, other = index._write, []

    def delayed(*arguments: object) -> None:
        if not other:
            other.append(True)
            promote(store, 2)
            index.update(store, "delays", "decisions")
        write(*arguments)

    monkeypatch.setattr(index, "_write", delayed)
    index.update(store, "delays", "decisions")
    assert by_name(store)["delays"].champion.version == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": "delays", "new_field": 1}', b"\xff\xfe"])
def test_a_damaged_section_is_computed_again(store: ArtifactStore, content: bytes) -> None:
    promote(store, 1)
    by_name(store)
    key = sections.key("delays", "decisions")
    store.write_bytes(key, content)
    assert by_name(store)["delays"].champion.version == 1
    assert b'"version":1' in store.read_bytes(key)


@pytest.mark.parametrize("content", [b"", b"no gzip"])
def test_a_damaged_copy_is_not_used(store: ArtifactStore, content: bytes) -> None:
    for month in MONTHS:
        reports.publish(store, month)
    expected = monitoring.points(store, "delays")
    store.write_bytes("indexes/monitoring/delays.json.gz", content)
    store.write_bytes(index.SNAPSHOT, content)
    assert monitoring.points(store, "delays") == expected
    assert len(expected[0]) == 12
    assert by_name(store)["delays"].monitoring.window.label == "2013-12"


def test_a_replaced_or_deleted_report_is_noticed(store: ArtifactStore) -> None:
    keys = [reports.publish(store, month) for month in MONTHS]
    monitoring.points(store, "delays")
    reports.publish(store, "2013-05", "retrain")
    store.delete(keys[0])
    found, _ = monitoring.points(store, "delays")
    assert [point.window.label for point in found] == MONTHS[1:]
    assert [point.window.label for point in found if point.verdict == "retrain"] == ["2013-05"]


def test_a_failing_index_fails_no_step(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_write", lambda *_: 1 / 0)
    promote(store, 1)
    index.update(store, "delays", "decisions")


def test_an_acknowledgement_counts_for_its_window_while_it_is_watched(store: ArtifactStore) -> None:
    reports.publish(store, "2013-01", "watch")
    window = Window.model_validate("2013-01")
    promote(store, 1, decision="acknowledged", champion=None, reason="It was a storm.", window=window)
    assert models.model(store, "delays").monitoring.acknowledged.note == "It was a storm."
    reports.publish(store, "2013-01", "retrain")
    assert models.model(store, "delays").monitoring.acknowledged is None
    reports.publish(store, "2013-02", "watch")
    assert models.model(store, "delays").monitoring.acknowledged is None


def test_a_changed_ledger_is_a_problem_and_the_rest_is_shown(store: ArtifactStore) -> None:
    promote(store, 1)
    promote(store, 2)
    reports.publish(store, "2013-01")
    key = "ledger/delays/00000001.json"
    store.write_bytes(key, store.read_bytes(key).replace(b"better", b"worse"))
    found = models.model(store, "delays")
    assert not found.chain.intact
    assert "entry 1" in found.chain.problem
    assert [item.seq for item in found.decisions] == [2, 1]
    assert found.monitoring is not None
    assert found.problems == [found.chain.problem]


def test_an_unknown_model_is_none(store: ArtifactStore) -> None:
    assert models.model(store, "delays") is None


def test_times_are_utc(store: ArtifactStore) -> None:
    reports.publish(store, "2013-01")
    last = models.model(store, "delays").monitoring
    assert last.window.start == datetime(2013, 1, 1, tzinfo=timezone.utc)
    assert '"start":"2013-01-01T00:00:00Z"' in last.model_dump_json()


def test_the_written_index_is_read_without_the_original_files(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(store, 1)
    reports.publish(store, "2013-01")
    score(store, "2013-01")
    expected = by_name(store)
    index.forget()
    monkeypatch.setattr(sections, "compute", lambda *_: 1 / 0)
    assert by_name(store) == expected


def test_a_changed_entry_is_noticed_although_the_entries_are_copied(store: ArtifactStore) -> None:
    for number in range(1, 7):
        promote(store, number)
    assert [item.seq for item in models.model(store, "delays").decisions] == [6, 5, 4, 3, 2, 1]
    assert store.exists("indexes/decisions/delays.json.gz")
    key = "ledger/delays/00000003.json"
    store.write_bytes(key, store.read_bytes(key).replace(b"is better", b"is worse!"))
    assert "entry 3" in models.model(store, "delays").chain.problem
    store.delete(key)
    found = models.model(store, "delays")
    assert "entry 3" in found.chain.problem
    assert [item.seq for item in found.decisions] == [6, 5, 4, 2, 1]


def test_points_of_another_version_are_read_from_the_reports(store: ArtifactStore) -> None:
    for month in MONTHS:
        reports.publish(store, month)
    expected = monitoring.points(store, "delays")
    key = "indexes/monitoring/delays.json.gz"
    found = copies.load(store, key, 1)
    copies.save(store, key, 1, {name: (stamp, {"new": 1}) for name, (stamp, _) in found.items()})
    assert monitoring.points(store, "delays") == expected


def test_a_report_that_only_another_version_can_read_is_read_by_that_version(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [reports.publish(store, month) for month in MONTHS[:5]]
    expected = monitoring.points(store, "delays")
    store.delete("indexes/monitoring/delays.json.gz")
    with monkeypatch.context() as earlier:
        parse = monitoring.parse
        earlier.setattr(monitoring, "parse", lambda key, text: None if key == keys[2] else parse(key, text))
        assert monitoring.points(store, "delays")[1] == [keys[2]]
    assert monitoring.points(store, "delays") == expected
    assert len(copies.load(store, "indexes/monitoring/delays.json.gz", 1)) == 5


def test_a_model_that_was_only_trained_is_listed_with_the_dags_that_trained_it(store: ArtifactStore) -> None:
    by_name(store)
    candidates.trained(store, version(2), "train")
    candidates.trained(store, version(1), "other_train")
    found = by_name(store)["delays"]
    assert (found.candidate.version, found.champion, found.dags.train) == (2, None, ["other_train", "train"])
    whole = models.model(store, "delays")
    assert (whole.candidate, whole.dags, whole.windows) == (found.candidate, found.dags, [])
    assert models.dags(store, "delays") == found.dags
    index.rebuild(store)
    assert by_name(store)["delays"] == found


def test_no_training_is_lost_if_several_end_at_the_same_time(store: ArtifactStore) -> None:
    by_name(store)
    numbers = range(1, 9)
    threads = [
        threading.Thread(target=candidates.trained, args=(store, version(number), f"train_{number % 2}"))
        for number in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = by_name(store)["delays"]
    assert (found.candidate.version, found.dags.train) == (8, ["train_0", "train_1"])
    kept = [key for key in store.keys("indexes/models/delays") if sections.is_candidate(key)]
    assert sorted(key[-6:-5] for key in kept) == ["7", "8"]


def test_a_damaged_section_about_trainings_is_a_problem_until_the_next_training(store: ArtifactStore) -> None:
    promote(store, 1)
    store.write_bytes(keys.candidate_key(version(1), "train"), b"{")
    [found] = models.models(store).models
    assert (found.champion.version, found.candidate) == (1, None)
    assert "/candidate-" in found.problems[0]
    candidates.trained(store, version(2), "train")
    assert by_name(store)["delays"].candidate.version == 2


def test_the_map_of_drift_reads_no_report_that_the_monitoring_step_has_copied(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [publish_drift(store, month, number / 100) for number, month in enumerate(MONTHS)]
    index.update(store, "delays", "monitoring")
    read: list[str] = []
    whole = store.read_many

    def counted(wanted: Iterable[str]) -> dict[str, bytes]:
        read.extend(wanted := list(wanted))
        return whole(wanted)

    monkeypatch.setattr(store, "read_many", counted)
    found = drift.drift_map(store, "delays", 30, 5)
    assert [window.label for window in found.windows] == MONTHS[-5:]
    assert [[cell and cell.effect for cell in row] for row in found.cells] == [[0.07, 0.08, 0.09, 0.1, 0.11]]
    assert [(item.column, item.importance) for item in found.features] == [("wind", 0.5)]
    assert len(drift.drift_map(store, "delays", 30, 36).windows) == 12
    assert read == []
    publish_drift(store, MONTHS[4], 0.99)
    store.delete(keys[0])
    changed = drift.drift_map(store, "delays", 30, 36)
    assert read == [keys[4]]
    assert [cell and cell.effect for cell in changed.cells[0]][3] == 0.99


def test_features_without_weighted_drift_are_ordered_by_drift_then_by_importance(store: ArtifactStore) -> None:
    others = [
        Drift(column=column, kind="numeric", effect=0.1, drifted=drifted, importance=importance)
        for column, drifted, importance in [("a", False, 0.1), ("b", False, 0.3), ("c", True, 0.0), ("d", False, 0.3)]
    ]
    publish_drift(store, MONTHS[0], 0.01, *others)
    found = drift.drift_map(store, "delays", 30, 36)
    assert [item.column for item in found.features] == ["wind", "c", "b", "d", "a"]


def test_a_copy_of_drift_of_another_version_is_not_used(store: ArtifactStore) -> None:
    for number, month in enumerate(MONTHS):
        publish_drift(store, month, number / 100)
    expected = drift.drift_map(store, "delays", 30, 36)
    key = "indexes/drift/delays.json.gz"
    found = copies.load(store, key, 1)
    assert len(found) == 12
    copies.save(store, key, 1, {name: (stamp, {"new": 1}) for name, (stamp, _) in found.items()})
    assert drift.drift_map(store, "delays", 30, 36) == expected
