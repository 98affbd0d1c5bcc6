"""The version that answers a share of the requests, and its withdrawal."""
