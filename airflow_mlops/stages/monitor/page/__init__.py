"""The HTML page of a monitoring report."""
