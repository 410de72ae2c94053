"""Where everything is stored: the databases, and the statements that run on them."""
