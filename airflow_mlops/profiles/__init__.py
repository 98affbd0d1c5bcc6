"""Column profiles: built in one streaming pass, merged, stored as JSON."""
