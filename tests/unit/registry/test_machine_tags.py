"""The tag with the GPUs names those that the process can use."""

from __future__ import annotations

import pytest

from airflow_mlops.registry.machine_tags import machine_tags
from airflow_mlops.registry.names import GPU_TAG

LIST = """0, GPU-8f6d2a10-0000, NVIDIA H200
1, GPU-1c77e0b2-0000, NVIDIA H200
2, GPU-77aa01cd-0000, NVIDIA L4
"""


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """``listed(text)`` puts an nvidia-smi on the path that prints ``text``."""

    def make(text: str, status: int = 0) -> None:
        file = tmp_path / "nvidia-smi"
        file.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {status}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, "2 x NVIDIA H200, 1 x NVIDIA L4"),
        ("0,2", "1 x NVIDIA H200, 1 x NVIDIA L4"),
        ("GPU-1c77", "1 x NVIDIA H200"),
        ("MIG-5f2a", "2 x NVIDIA H200, 1 x NVIDIA L4"),
        ("", None),
        ("-1", None),
    ],
)
def test_hidden_gpus_are_not_named(listed, monkeypatch, visible, expected):
    listed(LIST)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine_tags().get(GPU_TAG) == expected


@pytest.mark.parametrize(("text", "status"), [("", 0), ("No devices were found\n", 6)], ids=["none", "fails"])
def test_without_a_gpu_there_is_no_tag(listed, monkeypatch, text, status):
    listed(text, status)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert GPU_TAG not in machine_tags()
