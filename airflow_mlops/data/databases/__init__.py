"""Databases of Airflow connections: how to connect, their errors and types, queries, and tables for predictions."""
