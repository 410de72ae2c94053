"""Real servers, as processes of their own, spoken to over real sockets."""
