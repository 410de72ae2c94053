"""Attacks on the running service: short in `make test`, long in `make torture`."""
