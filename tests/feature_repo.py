"""What the small Feast repositories of the tests share."""

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
"""A ``feature_store.yaml``: everything in files beside it."""
