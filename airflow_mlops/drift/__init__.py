"""Drift: tests of whether two profiles differ by more than chance, with effect sizes and corrections."""
