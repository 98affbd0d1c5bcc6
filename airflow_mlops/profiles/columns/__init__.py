"""Column profiles. Each kind of column has a module with its profile class and the counter that computes it."""
