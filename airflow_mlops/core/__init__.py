"""The vocabulary that every floor shares: windows, references, calls, errors, connections."""
