"""Column profiles. Each kind of column has a module with its profile and with the counter that makes it."""
