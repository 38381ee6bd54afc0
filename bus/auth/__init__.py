"""Keys, tokens and roles. The broker, the dashboard and the CLI import it."""
