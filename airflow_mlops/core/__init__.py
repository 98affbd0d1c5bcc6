"""What all other packages share: windows, references, calls, errors and connections."""
