"""File systems of /etc/fstab that are not mounted are recognised."""

from __future__ import annotations

import pytest

from airflow_mlops.core import mounts
from airflow_mlops.core.errors import StoreError
from airflow_mlops.data.store import ArtifactStore


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write the mounted file systems and those of /etc/fstab. ``{}`` is a folder."""
    (tmp_path / "data dir").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data dir")

    def write(mounted: list[str], configured: list[str]):
        root = str(tmp_path)
        lines = [
            f"{number} 1 8:1 / {place} rw - {kind} x rw" for number, (place, kind) in enumerate(map(str.split, mounted))
        ]
        (tmp_path / "mountinfo").write_text("\n".join(lines).replace("{}", root))
        (tmp_path / "fstab").write_text("\n".join(["# a comment", "", *configured]).replace("{}", root))
        monkeypatch.setattr(mounts, "_MOUNTED", tmp_path / "mountinfo")
        monkeypatch.setattr(mounts, "_CONFIGURED", tmp_path / "fstab")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("mounted", "configured", "found"),
    [
        (["/ ext4"], ["server:/x {}/data\\040dir nfs defaults 0 0"], "data dir"),
        (["/ ext4"], ["server:/x {}/link/ nfs rw,soft 0 0  # a comment"], "data dir"),
        (["/ ext4"], ["server:/x {} nfs defaults 0 0"], ""),
        (["/ ext4", "{}/data\\040dir nfs4"], ["server:/x {}/data\\040dir nfs defaults 0 0"], None),
        (["/ ext4", "{}/data\\040dir autofs"], ["server:/x {}/data\\040dir nfs x-systemd.automount 0 0"], None),
        (["/ ext4"], ["server:/x {}/data\\040dir nfs noauto,user 0 0"], None),
        (
            ["/ ext4"],
            ["server:/x {}/data nfs defaults 0 0", "/dev/sda1 / ext4 defaults 0 1", "/dev/sdb none swap sw 0 0"],
            None,
        ),
        # A container has a part of a file system of its machine.
        (["/ overlay", "{}/data\\040dir/models ext4"], ["server:/x {}/data\\040dir nfs defaults 0 0"], None),
        # Not Linux.
        ([], ["server:/x {}/data\\040dir nfs defaults 0 0"], None),
    ],
)
def test_a_store_on_a_file_system_that_is_not_mounted_is_refused(machine, mounted, configured, found):
    root = machine(mounted, configured)
    store = f"file://{root}/data dir/models"
    if found is None:
        ArtifactStore(store).write_bytes("a", b"")
        return
    assert mounts.unmounted(root / "data dir" / "models") == str(root / found).rstrip("/")
    with pytest.raises(StoreError, match="not mounted") as caught:
        ArtifactStore(store)
    assert caught.value.retryable
    assert not (root / "data dir" / "models").exists()


def test_without_an_fstab_nothing_is_refused(machine):
    root = machine(["/ ext4"], [])
    (root / "fstab").unlink()
    ArtifactStore(f"file://{root}/store").write_bytes("a", b"")


def test_the_last_mount_of_a_folder_counts(machine):
    root = machine(["/ ext4", "{} tmpfs", "{} nfs4"], [])
    assert mounts.mount_of(root / "data dir") == (str(root), "nfs4")
    assert mounts.mount_of(root.parent) == ("/", "ext4")
