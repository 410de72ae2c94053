"""Commands for operators: the schema, the audit, backups, the shell, and a demo."""
