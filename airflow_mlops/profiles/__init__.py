"""Profiles of columns and models. They are computed in one streaming pass, can be merged, and are stored as JSON."""
