"""Gates: the requirements that a candidate must meet before promotion."""
