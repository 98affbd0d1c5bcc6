"""The facts behind a verdict, as sentences with numbers and units."""
