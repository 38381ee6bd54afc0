"""The REST API: routes, parameters and models. ``dashboard.app`` and the CLI import it."""
