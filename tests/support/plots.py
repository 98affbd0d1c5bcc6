"""Plots that are built but not rendered, because rendering takes most of the time of an evaluation."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest
    from matplotlib.figure import Figure

# An image of one transparent pixel.
_EMPTY_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def leave_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write each figure as an image of one pixel. tests/unit/stages/evaluate/test_plots.py looks at the images."""
    from matplotlib.figure import Figure

    def save(figure: Figure, file: Path, **options: Any) -> None:
        file.write_bytes(_EMPTY_PNG)

    monkeypatch.setattr(Figure, "savefig", save)
