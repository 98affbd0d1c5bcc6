"""Column names as files, spreadsheets and databases have them."""

from __future__ import annotations

NUMBERS = (
    "arrival delay",
    "weight [kg]",
    "dep.time",
    "dep",
    'it"s',
    "o'clock",
    "class",
    "größe",
    "µg",  # not in Python's normal form of identifiers
    "1st",
    "n" * 200,
    "view__feature",
    "a/b",
    "line\nbreak",
    "{braces}",
    "comma, and; more",
    " ",
    "<tag>",
    "[bracket",
    ".dot",
    "back`tick",
    "100%",
    "$price",
    "#",
    # Names of values in an ONNX graph.
    "probabilities",
    "output_label",
    "variable",
    "numbers",
    "raw",
)
TEXTS = ("carrier code", "view__text", "t.t", "import", "größe t", "texts", "[t]")
