"""The stage ``canary``, which increases the share of a canary, withdraws it or promotes it."""
