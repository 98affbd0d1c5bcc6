"""The stage ``feature_freshness``, which checks up to which time features are materialized."""
