"""The stage ``rollback``."""
