"""Types and functions that all other packages use: windows, references, calls, errors and connections."""
