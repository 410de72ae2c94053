"""How the service is served: by gunicorn in production, by Baseplate's server in development."""
