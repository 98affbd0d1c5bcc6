"""The stage ``feature_freshness``, which checks that features are materialized up to a required time."""
