"""Measure the drift of attributions, if predictions were scored with ``explain=True``."""
