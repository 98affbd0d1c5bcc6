"""The stage ``ingest``."""
