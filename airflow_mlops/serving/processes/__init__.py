"""The separate processes of the server, and the messages between them and the server."""
