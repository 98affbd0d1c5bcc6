"""The stage ``profile``, which profiles a dataset or one shard of a dataset."""
