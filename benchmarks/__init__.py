"""Side by side with the peers; each is ``python -m benchmarks.NAME`` and ends with one JSON line of figures."""
