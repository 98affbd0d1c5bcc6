"""The stage ``materialize_features``."""
