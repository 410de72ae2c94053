"""The tests: units, real databases, the whole application, real servers, and a browser."""
