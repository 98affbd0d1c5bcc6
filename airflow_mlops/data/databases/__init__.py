"""Databases of Airflow connections: how to connect, their errors and sessions, and queries."""
