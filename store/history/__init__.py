"""Reads run history. The dashboard, the CLI and subscribers import it."""

from lineside.store import require_database

require_database()
