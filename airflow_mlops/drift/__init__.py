"""Tests of whether two profiles differ by more than chance."""
