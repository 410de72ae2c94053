"""SQLite in a file: one machine, any number of processes."""
