"""Writes run history. The recorder imports it, and the dashboard for changes by users."""

from lineside.store import require_database

require_database()
