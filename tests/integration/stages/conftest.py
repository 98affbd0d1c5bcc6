"""The files of MLflow runs are in a folder, except in modules with the mark ``served_files``."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def place_of_files(request: pytest.FixtureRequest) -> None:
    items = [item for item in request.session.items if item.path == request.path]
    if request.node.get_closest_marker("served_files") is None and any(
        "mlflow_server" in getattr(item, "fixturenames", ()) for item in items
    ):
        request.getfixturevalue("files_in_a_folder")
