"""Tests of the desk, the storage and the commands on real databases."""
