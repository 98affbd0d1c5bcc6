"""Profiles of columns and models: made in one streaming pass, mergeable, stored as JSON."""
