"""Tables into which predictions are written: of databases, of Delta Lake and of Apache Iceberg."""
