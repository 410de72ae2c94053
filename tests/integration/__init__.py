"""The desk and its statements, on real databases."""
