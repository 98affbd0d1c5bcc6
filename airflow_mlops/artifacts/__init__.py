"""The artifact store: immutable datasets with manifests, results of steps, and fingerprints."""
