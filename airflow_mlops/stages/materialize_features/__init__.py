"""The stage ``materialize_features``, which applies a Feast repository and materializes its features."""
