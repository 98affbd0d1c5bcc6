"""Drift tests of a window against a reference, with effect sizes and corrections for multiple tests."""
