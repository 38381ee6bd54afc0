"""The REST API: routes, parameters and models."""
