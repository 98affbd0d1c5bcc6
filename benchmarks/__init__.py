"""Benchmarks, most of which compare the package with other libraries.

``python -m benchmarks.NAME`` runs one of them. The last line of its output is JSON with the figures.
"""
