"""The HTTP API: requests, responses, and the protocol."""
