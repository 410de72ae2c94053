"""Storage: the databases and their SQL statements."""
