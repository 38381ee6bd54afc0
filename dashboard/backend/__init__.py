"""Connections of the dashboard to store and bus."""
