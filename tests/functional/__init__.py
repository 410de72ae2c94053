"""Tests of the whole application through WSGI, without a server."""
