"""The stage ``feature_freshness``."""
