"""What the server sends to other processes: answers to log, rows for the shadow, and rows to explain."""
