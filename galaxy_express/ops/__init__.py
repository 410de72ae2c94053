"""What operators run: the schema, the audit, the shell, and a demo."""
