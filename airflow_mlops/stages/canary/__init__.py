"""The stage ``canary``, which widens the share of a canary, withdraws it or promotes it."""
