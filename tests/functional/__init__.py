"""The whole application over HTTP, without a server."""
