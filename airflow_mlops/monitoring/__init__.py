"""Profiles, drift, realised performance, and what to do about them."""
