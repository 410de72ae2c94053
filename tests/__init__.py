"""The tests: pure rules, real databases, the whole application, real servers."""
