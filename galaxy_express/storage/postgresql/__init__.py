"""PostgreSQL, for services on any number of machines."""
