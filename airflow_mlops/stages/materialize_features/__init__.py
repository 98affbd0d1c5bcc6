"""The stage ``materialize_features``, which applies a Feast repository and writes features to the online store."""
