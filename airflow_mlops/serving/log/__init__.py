"""The log of predictions: spool, upload, and datasets to which labels can be joined."""
