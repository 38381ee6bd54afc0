"""Writes run history. The recorder runs it, and the dashboard for what a person changes."""
