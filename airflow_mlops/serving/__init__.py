"""The online endpoint: an HTTP server that predicts with the champion, and logs what it predicted."""
