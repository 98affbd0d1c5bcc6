"""The model versions that the server has loaded, and the processes that follow an alias."""
