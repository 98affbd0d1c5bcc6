"""Gates, which are the requirements that a candidate must meet before it is promoted."""
