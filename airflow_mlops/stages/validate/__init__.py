"""The stage ``validate``, which validates datasets with Great Expectations."""
