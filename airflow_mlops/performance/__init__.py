"""Performance of deployed models: estimation without labels, segments, and change points."""
