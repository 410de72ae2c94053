"""The servers: gunicorn in production, Baseplate's server in development."""
