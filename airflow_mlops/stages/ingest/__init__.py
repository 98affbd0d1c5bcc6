"""The stage ``ingest``, which reads rows from databases and files into datasets."""
