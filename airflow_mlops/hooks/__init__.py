"""The hook of the connection type that this package adds to Airflow."""
