"""Writes run history. The recorder imports it, and the dashboard for changes by users."""
