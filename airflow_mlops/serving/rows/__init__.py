"""Rows of requests: the rows that the contract describes, features from Feast, and rows for another version."""
