"""Estimated performance, segments and change points."""
