"""The triggers of the sensors and of asset watchers. Triggers of pods are in ``compute/kubernetes``."""
