"""Helpers that several tests share: data, small models, servers."""
