"""The REST API: routes, models and answers."""
