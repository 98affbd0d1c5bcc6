"""Files of the small Feast repositories in tests."""

from __future__ import annotations

FEATURE_STORE = """
project: small
provider: local
registry: registry.db
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""
"""A ``feature_store.yaml`` that keeps everything in files in the same folder."""

PLACES = """
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Int64, String

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
places = FileSource(name="places", path="places.parquet", timestamp_field="at")
schema = [Field(name="place", dtype=String), Field(name="value", dtype=Int64)]
first = FeatureView(name="first", entities=[place], schema=schema, source=places)
second = FeatureView(name="second", entities=[place], schema=schema, source=places)
"""
"""Two views of ``places.parquet``: ``place``, ``at`` and ``value``."""
