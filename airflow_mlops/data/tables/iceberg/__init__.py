"""Tables of Apache Iceberg: their catalogs, the types of their columns, and how a part is replaced."""
