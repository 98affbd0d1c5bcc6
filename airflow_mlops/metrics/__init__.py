"""Every metric once: its value, the influence of each row, its interval."""
