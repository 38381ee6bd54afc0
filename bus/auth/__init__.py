"""Keys, tokens and roles, shared by the broker, the dashboard and the CLI."""
