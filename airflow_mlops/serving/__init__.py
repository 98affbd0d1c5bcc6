"""The online endpoint: an HTTP server that predicts with the champion and logs its predictions."""
